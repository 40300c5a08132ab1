-- Control schema of rolag: runs of reports. Run as version 1 is.

CREATE TABLE rolag.report_companion (
    pipeline   text PRIMARY KEY,
    epoch      bigint NOT NULL,
    host       text NOT NULL,
    pid        int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE rolag.report_companion IS 'One row per pipeline: the process (rolag reports) that works at its runs. A later one takes them over.';
COMMENT ON COLUMN rolag.report_companion.epoch IS 'Counts starts; whoever works for an older one changes no run any more.';

CREATE TABLE rolag.report_pack (
    hash text PRIMARY KEY,
    text text NOT NULL
);
COMMENT ON TABLE rolag.report_pack IS 'Report definitions as runs used them, by SHA-256: with them and the kept relations, rolag report rerun writes the same files again.';

CREATE TABLE rolag.report_run (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    pipeline          text NOT NULL,
    type              text NOT NULL CHECK (type IN ('manual', 'scheduled')),
    state             text NOT NULL DEFAULT 'queued' CHECK (state IN
                      ('queued', 'waiting', 'building', 'writing', 'published', 'failed', 'superseded')),
    client_state      text NOT NULL GENERATED ALWAYS AS (CASE
                          WHEN state IN ('queued', 'waiting') THEN 'queued'
                          WHEN state IN ('building', 'writing') THEN 'running'
                          WHEN state = 'failed' THEN 'failed'
                          ELSE 'success' END) STORED,
    reports           text[] NOT NULL,
    as_of             date,
    requester         text NOT NULL,
    idempotency_key   text,
    schedule          text,
    due_at            timestamptz,
    allow_stale       boolean NOT NULL DEFAULT false,
    accept_quarantine boolean NOT NULL DEFAULT false,
    served_by         uuid REFERENCES rolag.report_run ON DELETE SET NULL,
    epoch             bigint,
    failures          int NOT NULL DEFAULT 0,
    not_before        timestamptz,
    requested_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    waiting_at        timestamptz,
    building_at       timestamptz,
    writing_at        timestamptz,
    ended_at          timestamptz,
    fence_lsn         pg_lsn,
    stale             text,
    watermark_lsn     pg_lsn,
    watermark_at      timestamptz,
    pack              text REFERENCES rolag.report_pack,
    built             jsonb,
    manifest          text,
    kept              boolean NOT NULL DEFAULT false,
    reason            text,
    UNIQUE (pipeline, idempotency_key)
);
CREATE INDEX report_run_open ON rolag.report_run (pipeline, number)
    WHERE state IN ('queued', 'waiting', 'building', 'writing');
CREATE INDEX report_run_served_by ON rolag.report_run (served_by);
COMMENT ON TABLE rolag.report_run IS 'One row per request for reports; requests for the same that meet in the queue are served by one of them.';
COMMENT ON COLUMN rolag.report_run.state IS 'queued; waiting: until the warehouse holds what was committed before the request; building: models; writing: files; published; superseded: its files are those of served_by; failed: reason says why.';
COMMENT ON COLUMN rolag.report_run.client_state IS 'The same for clients that know queued, running, success and failed.';
COMMENT ON COLUMN rolag.report_run.reports IS 'norm/id, sorted.';
COMMENT ON COLUMN rolag.report_run.due_at IS 'Of a scheduled run: the time that it is for.';
COMMENT ON COLUMN rolag.report_run.served_by IS 'The run of the same reports that it joined.';
COMMENT ON COLUMN rolag.report_run.epoch IS 'Of the companion that works at it.';
COMMENT ON COLUMN rolag.report_run.failures IS 'How often it was tried in vain, for reasons that pass.';
COMMENT ON COLUMN rolag.report_run.fence_lsn IS 'Where the core stood when it was asked for: everything committed before is in the files.';
COMMENT ON COLUMN rolag.report_run.stale IS 'Why the files may lack what was committed before the request (--allow-stale); NULL: they do not.';
COMMENT ON COLUMN rolag.report_run.watermark_lsn IS 'Everything up to this commit end LSN of the core is in the files.';
COMMENT ON COLUMN rolag.report_run.built IS 'What the build left: relations, tests, sources, quarantined entities.';
COMMENT ON COLUMN rolag.report_run.kept IS 'Its relations are kept: rolag report rerun works.';

CREATE TABLE rolag.report_file (
    run_id   uuid NOT NULL REFERENCES rolag.report_run ON DELETE CASCADE,
    report   text NOT NULL,
    format   text NOT NULL CHECK (format IN ('csv', 'txt', 'xml')),
    path     text,
    rows     bigint NOT NULL,
    bytes    bigint NOT NULL,
    sha256   text,
    omitted  text,
    invalid  text,
    xsd      text,
    PRIMARY KEY (run_id, report, format)
);
COMMENT ON TABLE rolag.report_file IS 'The files of published runs, below the folder of reports and the run''s id.';
COMMENT ON COLUMN rolag.report_file.path IS 'norm/name.format; NULL: no file, omitted says why.';
COMMENT ON COLUMN rolag.report_file.invalid IS 'With on_invalid: flag: the first rule that the file breaks.';
COMMENT ON COLUMN rolag.report_file.xsd IS 'SHA-256 of the schema that it was validated against.';

CREATE TABLE rolag.report_schedule (
    pipeline text NOT NULL,
    schedule text NOT NULL,
    due_at   timestamptz NOT NULL,
    PRIMARY KEY (pipeline, schedule)
);
COMMENT ON TABLE rolag.report_schedule IS 'The latest time of each schedule that was seen to.';
