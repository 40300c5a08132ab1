-- Warehouse: roles for those who only look. As a superuser, in the warehouse's database; again is harmless:
--
--   psql -v companion=rolag_reports -v auditor=rolag_auditor -v office=rolag_office -f readers.sql
--
-- companion: the role of reports.connect (warehouse.connect where that is empty), which owns what is shown.
-- auditor:   reads how the pipeline does and what was published (an auditor, a data source of Grafana): the control
--            tables, but no payload, no key of a row that is being read, and no landed table.
-- office:    reads what the newest published models say: the views of outputs, and nothing behind them.
-- What the roles of rolag itself are given, prints `rolag init --print-sql`.
\set ON_ERROR_STOP on
\if :{?companion} \else \set companion rolag \endif
\if :{?auditor} \else \set auditor rolag_auditor \endif
\if :{?office} \else \set office rolag_office \endif

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY[:'auditor', :'office']) name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
GRANT CONNECT ON DATABASE :"DBNAME" TO :"auditor", :"office";

GRANT USAGE ON SCHEMA rolag TO :"auditor";
GRANT SELECT ON rolag.migration, rolag.fence, rolag.ledger, rolag.written, rolag.fence_seen, rolag.relation,
    rolag.definition, rolag.rebuild, rolag.rebuild_column, rolag.repair, rolag.quarantine_audit, rolag.report_companion,
    rolag.report_pack, rolag.report_run, rolag.report_file, rolag.report_schedule, rolag.model_run, rolag.model,
    rolag.model_test, rolag.model_publication TO :"auditor";
-- Not quarantine.event, which is the payload, and not sync.last_key.
GRANT SELECT (pipeline, rollup, id, sequence, event_type, recorded_at, lsn, committed_at, reason, first, state, parked_at)
    ON rolag.quarantine TO :"auditor";
GRANT SELECT (pipeline, name, step, start_lsn, timeline, fresh, read_lsn, replayed_lsn, rows, estimated_rows, started_at,
    changed_at) ON rolag.sync TO :"auditor";

CREATE SCHEMA IF NOT EXISTS outputs AUTHORIZATION :"companion";
GRANT USAGE ON SCHEMA outputs TO :"office";
GRANT SELECT ON ALL TABLES IN SCHEMA outputs TO :"office";
ALTER DEFAULT PRIVILEGES FOR ROLE :"companion" IN SCHEMA outputs GRANT SELECT ON TABLES TO :"office";
