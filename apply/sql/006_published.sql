-- Control schema of rolag: how each landed table was published. Run as version 1 is.

ALTER TABLE rolag.relation ADD COLUMN published text;
UPDATE rolag.relation SET published = fingerprint, fingerprint = NULL WHERE kind = 'mirror';
COMMENT ON COLUMN rolag.relation.published IS 'A mark of how its source was published when it was last known to have every change; when the core''s is another one, it is synced. Empty: it misses changes. NULL: not looked at yet.';
COMMENT ON COLUMN rolag.relation.fingerprint IS 'Of a rollup: of the definition that made its rows, in hexadecimal.';
