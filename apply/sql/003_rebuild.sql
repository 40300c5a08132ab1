-- Control schema of rolag, version 3: definitions that change. Run as version 1 is.
-- ---- mirrors ----

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

ALTER TABLE rolag.relation ADD COLUMN leaves jsonb;
COMMENT ON COLUMN rolag.relation.leaves IS 'Of the mirror of a partitioned table: its partitions (OID in the core: file) as they were when it was synced; it is parked when they become others in a way that the stream does not tell. null: it was truncated, they are noted anew.';

ALTER TABLE rolag.sync ADD COLUMN shape bytea;
ALTER TABLE rolag.sync ADD COLUMN source_hash text;
ALTER TABLE rolag.sync ADD COLUMN leaves jsonb;
COMMENT ON COLUMN rolag.sync.leaves IS 'Of a mirror: as in rolag.relation, when reading began.';
COMMENT ON COLUMN rolag.sync.shape IS 'Of a mirror: the shape of the table that is made beside it.';
COMMENT ON COLUMN rolag.sync.source_hash IS 'Of a mirror: what its source was when reading began; it is begun anew where that changed.';

CREATE TABLE rolag.sync_row (
    pipeline text NOT NULL,
    name     text NOT NULL,
    key      text[] NOT NULL,
    PRIMARY KEY (pipeline, name, key),
    FOREIGN KEY (pipeline, name) REFERENCES rolag.sync ON DELETE CASCADE
);
COMMENT ON TABLE rolag.sync_row IS 'Rows of a mirror that is being synced which the core must be asked for once more: their key changed, and a value that did not was not sent.';
