-- Control schema of rolag: requests that come over HTTP. Run as version 1 is.

ALTER TABLE rolag.report_run ADD COLUMN idempotency_body text;
COMMENT ON COLUMN rolag.report_run.idempotency_key IS 'The same again is the same run: of a request over HTTP, with the name of the token that came with it.';
COMMENT ON COLUMN rolag.report_run.idempotency_body IS 'SHA-256 of what was asked for with that key: another body with the same key is refused.';
