-- Control schema of rolag: what was built of the models. Run as version 1 is.

CREATE TABLE rolag.model_run (
    run_id        uuid PRIMARY KEY,
    pipeline      text NOT NULL,
    schema        text NOT NULL,
    as_of         date NOT NULL,
    run_at        timestamptz NOT NULL,
    watermark     pg_lsn NOT NULL,
    committed_at  timestamptz,
    backend_pid   int NOT NULL,
    backend_start timestamptz NOT NULL,
    kept          boolean NOT NULL,
    built_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE rolag.model_run IS 'One row per build of models: from which position of the core, and in which schema. Written with what was built, in one transaction.';
COMMENT ON COLUMN rolag.model_run.watermark IS 'Commit end LSN in the core: everything up to it is in the run, nothing behind it.';
COMMENT ON COLUMN rolag.model_run.committed_at IS 'Commit time in the core of the newest transaction in it.';
COMMENT ON COLUMN rolag.model_run.backend_pid IS 'With backend_start: the session that built it. While it is there, an unpublished run is not abandoned.';
COMMENT ON COLUMN rolag.model_run.kept IS 'Of a report run, which says when it goes; else it goes when nothing needs it any more.';

CREATE TABLE rolag.model (
    run_id          uuid NOT NULL REFERENCES rolag.model_run ON DELETE CASCADE,
    name            text NOT NULL,
    layer           text NOT NULL CHECK (layer IN ('staging', 'intermediate', 'outputs', 'seeds')),
    kind            text NOT NULL CHECK (kind IN ('table', 'view')),
    fingerprint     text NOT NULL,
    relation_schema text,
    reused          boolean NOT NULL,
    rows            bigint,
    PRIMARY KEY (run_id, name)
);
CREATE INDEX model_fingerprint ON rolag.model (fingerprint);
COMMENT ON TABLE rolag.model IS 'The models of a run. Only ever added to, until their run is dropped.';
COMMENT ON COLUMN rolag.model.fingerprint IS 'Of its SQL and everything it was made from: equal fingerprints are equal rows.';
COMMENT ON COLUMN rolag.model.relation_schema IS 'Where its relation is: the run''s schema, or an earlier run''s where nothing had changed; NULL: a view over landed tables, which existed within the build only.';
COMMENT ON COLUMN rolag.model.rows IS 'Of a table.';

CREATE TABLE rolag.model_test (
    run_id      uuid NOT NULL REFERENCES rolag.model_run ON DELETE CASCADE,
    model       text NOT NULL,
    test        text NOT NULL,
    column_name text,
    severity    text NOT NULL CHECK (severity IN ('error', 'warn')),
    fingerprint text NOT NULL,
    failures    bigint NOT NULL
);
CREATE INDEX model_test_run ON rolag.model_test (run_id);
CREATE INDEX model_test_fingerprint ON rolag.model_test (fingerprint);
COMMENT ON TABLE rolag.model_test IS 'What the tests of a run found. A run with failures of severity error is not there: it was rolled back.';
COMMENT ON COLUMN rolag.model_test.failures IS 'Rows that do not hold.';

CREATE TABLE rolag.model_publication (
    run_id       uuid PRIMARY KEY REFERENCES rolag.model_run ON DELETE CASCADE,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE rolag.model_publication IS 'Runs whose relations the stable views were pointed at; the newest is what they show.';

-- Which relations a batch changed: so that a model whose inputs did not change is known without reading them.
ALTER TABLE rolag.ledger ADD COLUMN relations text[];
COMMENT ON COLUMN rolag.ledger.relations IS 'Landed relations (names in rolag.relation) whose rows this transaction changed; NULL: it may be any.';

CREATE TABLE rolag.written (
    pipeline text NOT NULL,
    name     text NOT NULL,
    lsn      pg_lsn NOT NULL,
    PRIMARY KEY (pipeline, name)
);
COMMENT ON TABLE rolag.written IS 'What the trimmed rows of rolag.ledger said: the newest position whose transaction changed this relation; name *: any relation.';
