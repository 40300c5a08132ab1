-- Control schema of rolag, version 3: definitions that change. Run as version 1 is.

-- ---- tables that take the place of others ----

CREATE TABLE rolag.comment_made (
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    column_name text NOT NULL,
    hash        text NOT NULL,
    PRIMARY KEY (schema_name, table_name, column_name)
);
COMMENT ON TABLE rolag.comment_made IS 'The comments that rolag wrote on its landed tables: another one is a user''s, and stays when the table is made anew.';
COMMENT ON COLUMN rolag.comment_made.column_name IS 'Empty: of the table itself.';
COMMENT ON COLUMN rolag.comment_made.hash IS 'md5 of the text.';
INSERT INTO rolag.comment_made
    SELECT DISTINCT n.nspname, c.relname, coalesce(a.attname, ''), pg_catalog.md5(d.description)
    FROM rolag.relation r
    JOIN pg_catalog.pg_class c ON c.relname IN (r.name, r.name || '_latest') AND c.relkind = 'r'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute own ON own.attrelid = c.oid AND own.attname = '_lsn'
    JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::regclass
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid;

-- ---- rebuilds ----

ALTER TABLE rolag.relation ADD COLUMN beside text;
COMMENT ON COLUMN rolag.relation.beside IS 'NULL for what readers read. Of a table that is built beside a rollup (<name>__d<number>), or was its table before and is kept for rolag rebuild --undo (<name>__d0): that rollup.';

CREATE TABLE rolag.definition (
    pipeline    text NOT NULL,
    name        text NOT NULL,
    number      int NOT NULL,
    fingerprint text NOT NULL,
    text        text NOT NULL,
    made_at     timestamptz NOT NULL DEFAULT now(),
    undone_at   timestamptz,
    PRIMARY KEY (pipeline, name, number)
);
COMMENT ON TABLE rolag.definition IS 'Every definition that made rows which readers saw, as its file was: what rows mean is said by the one that rolag.relation names.';
COMMENT ON COLUMN rolag.definition.text IS 'The YAML file; of several with one fingerprint, the newest.';
COMMENT ON COLUMN rolag.definition.made_at IS 'When its rows were there first.';
COMMENT ON COLUMN rolag.definition.undone_at IS 'Its rows were taken back (rolag rebuild --undo); it is not built again by itself.';

CREATE TABLE rolag.rebuild (
    pipeline    text NOT NULL,
    rollup      text NOT NULL,
    what        text NOT NULL CHECK (what IN ('rebuild', 'undo', 'forget')),
    state       text NOT NULL CHECK (state IN ('asked', 'building', 'counted', 'done', 'refused')),
    number      int NOT NULL,
    fingerprint text NOT NULL,
    reason      text,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    begun_at    timestamptz,
    retry_at    timestamptz,
    tries       int NOT NULL DEFAULT 0,
    done_at     timestamptz,
    counted_lsn pg_lsn,
    same        bigint,
    differing   bigint,
    only_old    bigint,
    only_new    bigint,
    gone        text,
    added       text,
    PRIMARY KEY (pipeline, rollup)
);
COMMENT ON TABLE rolag.rebuild IS 'The newest rebuild of each rollup: a definition''s rows are made beside the live ones, counted, and take their place in one transaction.';
COMMENT ON COLUMN rolag.rebuild.state IS 'asked: for apply; building: until it follows the stream as the live one does; counted: the swap is next; done; refused: reason says why.';
COMMENT ON COLUMN rolag.rebuild.number IS 'Of the definition that is built.';
COMMENT ON COLUMN rolag.rebuild.reason IS 'Why it does not go on, or was refused; NULL: nothing is in its way.';
COMMENT ON COLUMN rolag.rebuild.retry_at IS 'When the swap is tried again; tries: how often it was tried.';
COMMENT ON COLUMN rolag.rebuild.counted_lsn IS 'Old and new were compared as of this position of the core.';
COMMENT ON COLUMN rolag.rebuild.differing IS 'Rows that both have (id, version), with another value in a column that both have.';
COMMENT ON COLUMN rolag.rebuild.gone IS 'Columns that only the old one has; added: only the new one.';

CREATE TABLE rolag.rebuild_column (
    pipeline    text NOT NULL,
    rollup      text NOT NULL,
    column_name text NOT NULL,
    rows        bigint NOT NULL,
    PRIMARY KEY (pipeline, rollup, column_name),
    FOREIGN KEY (pipeline, rollup) REFERENCES rolag.rebuild ON DELETE CASCADE
);
COMMENT ON TABLE rolag.rebuild_column IS 'Of the newest rebuild: in how many rows a column''s value differs between old and new; columns without difference are not here.';
