-- Control schema of rolag, version 2: mirrors; a core that has lived.

ALTER TABLE rolag.relation
    ADD COLUMN reason text,
    ADD COLUMN shape bytea;
COMMENT ON COLUMN rolag.relation.source_columns IS 'Of a mirror: the columns of its source that it has.';
COMMENT ON COLUMN rolag.relation.reason IS 'Why it is parked; NULL otherwise.';
COMMENT ON COLUMN rolag.relation.shape IS 'Of a mirror: its source''s shape as the table was made after it (Schemas of proto/change.proto).';
