-- Control schema of rolag, version 2: what a core that has lived needs. Run as version 1 is.

-- ---- sync ----

ALTER TABLE rolag.relation ADD COLUMN IF NOT EXISTS reason text;
COMMENT ON COLUMN rolag.relation.reason IS 'Why it is parked, with the LSN from which on its changes are left out; NULL: it is not, or is no longer landed.';

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
