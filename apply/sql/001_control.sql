-- Control schema of rolag, version 1. Run in one transaction; the number is recorded in rolag.migration.
-- The schema itself is there: made by the runner, or by the DBA for a role without CREATE on the database.

COMMENT ON SCHEMA rolag IS 'Control tables of rolag: who writes, how far, and in what state each table is.';

CREATE TABLE IF NOT EXISTS rolag.migration (
    number     int PRIMARY KEY,
    program    text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE rolag.migration IS 'Versions of the control schema that were applied; a program older than the newest refuses to start.';

CREATE TABLE rolag.fence (
    pipeline       text PRIMARY KEY,
    epoch          bigint NOT NULL DEFAULT 0,
    core_system_id text,
    owner_host     text,
    backend_pid    int,
    backend_start  timestamptz,
    taken_at       timestamptz
);
COMMENT ON TABLE rolag.fence IS 'One row per pipeline: the one applier that may write. Updated only by a takeover, never by a batch.';
COMMENT ON COLUMN rolag.fence.epoch IS 'Counts takeovers; a batch of an older epoch writes nothing.';
COMMENT ON COLUMN rolag.fence.core_system_id IS 'System identifier of the core that this pipeline follows; another one is refused.';

CREATE TABLE rolag.ledger (
    pipeline     text NOT NULL,
    applied_lsn  pg_lsn NOT NULL,
    timeline     int NOT NULL,
    committed_at timestamptz,
    PRIMARY KEY (pipeline, applied_lsn)
);
COMMENT ON TABLE rolag.ledger IS 'How far the warehouse is: the greatest applied_lsn of a pipeline. One row per warehouse transaction, written with its data; older rows are trimmed once a minute.';
COMMENT ON COLUMN rolag.ledger.applied_lsn IS 'Commit end LSN in the core: everything up to it is here.';
COMMENT ON COLUMN rolag.ledger.timeline IS 'Timeline of the core that the LSN belongs to.';
COMMENT ON COLUMN rolag.ledger.committed_at IS 'Commit time in the core of the newest transaction applied; NULL for a position without one.';

CREATE TABLE rolag.fence_seen (
    run_id   text PRIMARY KEY,
    pipeline text NOT NULL,
    lsn      pg_lsn NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE rolag.fence_seen IS 'Report fences met in the stream: what was committed in the core before the fence is here.';

CREATE TABLE rolag.relation (
    pipeline       text NOT NULL,
    name           text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('rollup', 'mirror')),
    source         text NOT NULL,
    state          text NOT NULL CHECK (state IN ('syncing', 'live', 'parked', 'rebuilding')),
    sync_lsn       pg_lsn,
    definition     int,
    fingerprint    text,
    source_columns text[],
    changed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, name)
);
COMMENT ON TABLE rolag.relation IS 'One row per landed table: where it comes from and in what state it is.';
COMMENT ON COLUMN rolag.relation.state IS 'syncing: being loaded from the core; live: follows the stream; parked: waits for a person; rebuilding: a new definition is built beside it.';
COMMENT ON COLUMN rolag.relation.sync_lsn IS 'LSN of the snapshot it was loaded from: the stream counts for it only behind this.';
COMMENT ON COLUMN rolag.relation.fingerprint IS 'Of the definition that made its rows, in hexadecimal.';
