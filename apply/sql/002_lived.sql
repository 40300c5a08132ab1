-- Control schema of rolag, version 2: what a core that has lived needs. Run as version 1 is.

-- ---- verify ----

CREATE TABLE rolag.repair (
    pipeline    text NOT NULL,
    rollup      text NOT NULL,
    id          text NOT NULL,
    extra_up_to int NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'refused')),
    reason      text,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz,
    PRIMARY KEY (pipeline, rollup, id)
);
COMMENT ON TABLE rolag.repair IS 'Entities whose rows apply makes anew from the core''s events, between two batches; asked for by rolag verify --repair.';
COMMENT ON COLUMN rolag.repair.id IS 'The entity, as text.';
COMMENT ON COLUMN rolag.repair.extra_up_to IS 'Rows up to this version for which the core has no event are proven to be too many; later ones may be of a commit that the core does not show yet.';
COMMENT ON COLUMN rolag.repair.state IS 'waiting: for apply; done; refused: the rows are as they were, reason says why.';
-- ---- quarantine ----

ALTER TABLE rolag.relation ADD COLUMN IF NOT EXISTS reason text;
COMMENT ON COLUMN rolag.relation.reason IS 'Why it is parked, with the LSN from which on its changes are left out; NULL: it is not, or is no longer landed.';

CREATE TABLE rolag.quarantine (
    pipeline     text NOT NULL,
    rollup       text NOT NULL,
    id           text NOT NULL,
    sequence     int NOT NULL,
    event_type   text NOT NULL,
    event        text,
    recorded_at  timestamptz NOT NULL,
    lsn          pg_lsn NOT NULL,
    committed_at timestamptz,
    reason       text,
    first        boolean NOT NULL,
    state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'retry', 'skip', 'skipped')),
    parked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, rollup, id, sequence)
);
CREATE INDEX quarantine_asked ON rolag.quarantine (pipeline) WHERE state IN ('retry', 'skip');
COMMENT ON TABLE rolag.quarantine IS 'Events of entities that wait: the one that could not be folded and all later ones, in order. Holds payloads, which are personal data.';
COMMENT ON COLUMN rolag.quarantine.id IS 'The entity, as text.';
COMMENT ON COLUMN rolag.quarantine.event IS 'Payload as it came; NULL once it is skipped.';
COMMENT ON COLUMN rolag.quarantine.lsn IS 'Commit end LSN of its source transaction; of the first load: the snapshot''s LSN.';
COMMENT ON COLUMN rolag.quarantine.committed_at IS 'Commit time in the core; NULL where it did not come by the stream.';
COMMENT ON COLUMN rolag.quarantine.reason IS 'Of the first: why it could not be folded; never a value.';
COMMENT ON COLUMN rolag.quarantine.first IS 'It could not be folded; the others of its entity wait behind it.';
COMMENT ON COLUMN rolag.quarantine.state IS 'waiting; retry, skip: somebody asked for it, apply does it between two batches; skipped: was left out, and is again when the rollup is loaded anew.';

CREATE TABLE rolag.quarantine_audit (
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    who      text NOT NULL,
    action   text NOT NULL CHECK (action IN ('retry', 'skip', 'folded', 'parked again')),
    pipeline text NOT NULL,
    rollup   text NOT NULL,
    id       text NOT NULL,
    sequence int,
    reason   text
);
COMMENT ON TABLE rolag.quarantine_audit IS 'Who asked for what in quarantine (retry, skip), and what came of it (folded, parked again). Only ever added to.';

-- ---- sync ----

CREATE TABLE rolag.sync (
    pipeline       text NOT NULL,
    name           text NOT NULL,
    step           bigint NOT NULL DEFAULT 0,
    start_lsn      pg_lsn NOT NULL,
    timeline       int NOT NULL,
    fresh          boolean NOT NULL,
    last_key       text[],
    read_lsn       pg_lsn,
    replayed_lsn   pg_lsn,
    rows           bigint NOT NULL DEFAULT 0,
    estimated_rows bigint NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, name),
    FOREIGN KEY (pipeline, name) REFERENCES rolag.relation ON DELETE CASCADE
);
COMMENT ON TABLE rolag.sync IS 'One row per table that is being synced: where that began and how far it is. Gone when the table is live.';
COMMENT ON COLUMN rolag.sync.name IS 'Of its row in rolag.relation.';
COMMENT ON COLUMN rolag.sync.step IS 'Counts its transactions, so that a late one of a worker that was given up does not count.';
COMMENT ON COLUMN rolag.sync.start_lsn IS 'What was committed up to here is read from the core, what came later from the spool as well.';
COMMENT ON COLUMN rolag.sync.fresh IS 'The table was empty when it began.';
COMMENT ON COLUMN rolag.sync.last_key IS 'Key of the last row of the core that is written; NULL: none yet.';
COMMENT ON COLUMN rolag.sync.read_lsn IS 'All rows of the core are written; they show nothing that was committed behind this.';
COMMENT ON COLUMN rolag.sync.replayed_lsn IS 'What the spool has for it is written up to here.';
COMMENT ON COLUMN rolag.sync.estimated_rows IS 'How many rows the core''s planner expects.';

-- ---- mirrors ----

ALTER TABLE rolag.relation ADD COLUMN shape bytea;
COMMENT ON COLUMN rolag.relation.source_columns IS 'Of a mirror: the columns of its source that it has.';
COMMENT ON COLUMN rolag.relation.shape IS 'Of a mirror: its source''s shape as the table was made after it (Schemas of proto/change.proto).';
