"""Prints deploy/grafana/rolag.json, a Grafana dashboard (`make dashboard` writes it; `make lint` fails while it is stale).

A row is a question that somebody on call has; a panel is its unit, its title and its queries.
"""
import json

INSTANCE = '{instance=~"$instance"}'


def rate(name):
    return f"rate({name}{INSTANCE}[5m])"


def age(name):
    return f"time() - {name}{INSTANCE} / 1e6"


def micro(name):
    return f"{name}{INSTANCE} / 1e6"


def plain(name):
    return name + INSTANCE


def quantile(name, q):
    return f"histogram_quantile({q}, sum by (le, instance) (rate({name}_bucket{INSTANCE}[5m])))"


# (row, [(title, unit, [(legend, query)])])
ROWS = [
    ("Is the warehouse true and near?", [
        ("What rolag status says", "short", [("healthy", plain("rolag_healthy")), ("{{state}}", plain("rolag_state"))]),
        ("Roles that run", "short", [("{{role}}", plain("rolag_up"))]),
        ("Behind the core", "s", [("behind", plain("rolag:behind:seconds")), ("newest that came", plain("rolag_lag_seconds"))]),
        ("Behind, WAL", "bytes", [("behind", plain("rolag:behind:bytes")), ("received, not applied", plain("rolag_lag_bytes"))]),
        ("Commit to visible", "s", [("p50", quantile("rolag_commit_to_visible_seconds", 0.5)),
                                    ("p99", quantile("rolag_commit_to_visible_seconds", 0.99))]),
        ("Not as the core says", "short", [("differences", plain("rolag_apply_verify_differences_total")),
                                           ("could not be compared", plain("rolag_apply_verify_failures_total"))]),
        ("Rows verified", "short", [("rows/s", rate("rolag_apply_verified_rows_total"))]),
        ("Last sample verified", "s", [("ago", age("rolag_apply_verify_time_us"))]),
        ("Repaired", "short", [("entities", plain("rolag_apply_repaired_entities_total")),
                               ("events read from the core", plain("rolag_apply_repaired_events_total"))]),
    ]),
    ("What waits?", [
        ("Quarantine", "short", [("entities", plain("rolag_quarantine_entities")), ("events", plain("rolag_quarantine_events")),
                                 ("rollups", plain("rolag_quarantine_rollups"))]),
        ("Left quarantine", "short", [("events/s", rate("rolag_quarantine_folded_events_total"))]),
        ("Parked", "short", [("rollups", plain("rolag_parked_rollups")), ("mirrors", plain("rolag_apply_parked_mirrors"))]),
        ("Unlisted", "short", [("keys/s", rate("rolag_apply_unknown_keys_total")),
                               ("events folded as nothing/s", rate("rolag_apply_ignored_events_total")),
                               ("messages/s", rate("rolag_capture_messages_ignored_total"))]),
    ]),
    ("Does the core suffer?", [
        ("WAL kept for us", "bytes", [("kept", plain("rolag_core_retained_wal_bytes")),
                                      ("budget", plain("rolag_core_wal_budget_bytes")),
                                      ("the core's limit", plain("rolag_core_slot_limit_bytes"))]),
        ("Slot lost in (0: not foreseen)", "s", [("lost in", micro("rolag_core_slot_lost_in_us"))]),
        ("Alarms", "short", [("slot", plain("rolag_core_slot_alarm")), ("publications missing", plain("rolag_core_publications_missing")),
                             ("tables without identity", plain("rolag_core_tables_without_identity")),
                             ("tables unpublished", plain("rolag_core_tables_unpublished"))]),
        ("The core's oldest transaction", "s", [("age", micro("rolag_core_oldest_transaction_us"))]),
        ("Its server process", "none", [("pid", plain("rolag_core_oldest_transaction_pid"))]),
        ("Slots lost", "short", [("made anew", plain("rolag_capture_slots_made_total")), ("gaps", plain("rolag_capture_gaps_total"))]),
        ("Slot made anew", "s", [("ago", age("rolag_capture_slot_made_time_us"))]),
    ]),
    ("Capture", [
        ("Connected", "short", [("capture", plain("rolag_capture_connected")), ("apply", plain("rolag_apply_connected")),
                                ("reports", plain("rolag_reports_connected"))]),
        ("Started", "s", [("{{role}}, ago", f"time() - {plain('rolag_start_time_seconds')}")]),
        ("Version", "short", [("{{version}}", plain("rolag_build_info"))]),
        ("Reconnects", "short", [("core/s", rate("rolag_capture_reconnects_total")), ("warehouse/s", rate("rolag_apply_reconnects_total"))]),
        ("Received", "short", [("transactions/s", rate("rolag_capture_transactions_total")), ("rows/s", rate("rolag_capture_changes_total")),
                               ("heartbeats/s", rate("rolag_capture_heartbeats_total"))]),
        ("Received bytes", "Bps", [("pgoutput", rate("rolag_capture_received_bytes_total"))]),
        ("Positions, WAL/s", "Bps", [("core", rate("rolag_core_current_lsn_bytes")), ("received", rate("rolag_capture_received_lsn_bytes")),
                                     ("durable", rate("rolag_capture_durable_lsn_bytes")), ("confirmed", rate("rolag_capture_confirmed_lsn_bytes")),
                                     ("told applied", rate("rolag_capture_applied_lsn_bytes")), ("applied", rate("rolag_apply_applied_lsn_bytes")),
                                     ("on the warehouse's disk", rate("rolag_apply_flushed_lsn_bytes"))]),
        ("Newest commit", "s", [("received, ago", age("rolag_capture_last_commit_time_us")), ("applied, ago", age("rolag_apply_last_commit_time_us")),
                                ("with events, ago", age("rolag_apply_last_event_time_us")), ("heartbeat, ago", age("rolag_apply_heartbeat_time_us"))]),
        ("Spool", "bytes", [("segments", plain("rolag_spool_bytes")), ("quota", plain("rolag_spool_quota_bytes"))]),
        ("Spool written", "Bps", [("bytes/s", rate("rolag_spool_written_bytes_total"))]),
        ("Spool full, syncs", "short", [("full", plain("rolag_spool_full")), ("syncs/s", rate("rolag_spool_syncs_total"))]),
        ("Commit to durable", "s", [("p99", quantile("rolag_commit_to_durable_seconds", 0.99))]),
    ]),
    ("Apply", [
        ("Applied", "short", [("events/s", rate("rolag_apply_events_total")), ("transactions/s", rate("rolag_apply_transactions_total")),
                              ("batches/s", rate("rolag_apply_batches_total"))]),
        ("A batch", "s", [("p50", quantile("rolag_apply_batch_seconds", 0.5)), ("p99", quantile("rolag_apply_batch_seconds", 0.99))]),
        ("Passed over", "short", [("duplicates/s", rate("rolag_apply_duplicates_total")), ("transactions/s", rate("rolag_apply_skipped_transactions_total"))]),
        ("States in memory", "bytes", [("cache", plain("rolag_apply_cache_bytes"))]),
        ("States found", "short", [("hits/s", rate("rolag_apply_cache_hits_total")), ("misses/s", rate("rolag_apply_cache_misses_total"))]),
        ("Mirrors", "short", [("mirrors", plain("rolag_apply_mirrors")), ("inserts/s", rate("rolag_apply_mirrored_inserts_total")),
                              ("updates/s", rate("rolag_apply_mirrored_updates_total")), ("deletes/s", rate("rolag_apply_mirrored_deletes_total")),
                              ("truncates/s", rate("rolag_apply_mirrored_truncates_total"))]),
    ]),
    ("Syncs and rebuilds", [
        ("Tables", "short", [("syncing", plain("rolag_apply_syncing_tables")), ("rebuilding", plain("rolag_apply_rebuilding_rollups")),
                             ("rebuilds that wait", plain("rolag_apply_rebuild_waits"))]),
        ("Sync rows", "short", [("rows/s", rate("rolag_apply_sync_rows_total"))]),
        ("How far", "short", [("synced", plain("rolag_apply_sync_done_rows")), ("of about", plain("rolag_apply_sync_estimated_rows")),
                              ("rebuilt", plain("rolag_apply_rebuild_done_rows")), ("of about", plain("rolag_apply_rebuild_estimated_rows")),
                              ("at its start", plain("rolag_apply_sync_started_rows"))]),
        ("Since", "s", [("sync began, ago", f"({age('rolag_apply_sync_started_time_us')}) and rolag_apply_sync_started_time_us{INSTANCE} > 0")]),
    ]),
    ("Reports", [
        ("Runs", "short", [("published", plain("rolag_reports_published_runs_total")), ("failed", plain("rolag_reports_failed_runs_total")),
                           ("tried again", plain("rolag_reports_retries_total"))]),
        ("Open requests", "short", [("open", plain("rolag_reports_open_runs"))]),
        ("Newest published, newest failed, oldest open", "s", [
            ("published, ago", age("rolag_reports_published_time_us")), ("failed, ago", age("rolag_reports_failed_time_us")),
            ("asked for, ago", age("rolag_reports_open_time_us"))]),
        ("HTTP", "short", [("requests", plain("rolag_reports_http_requests_total")),
                           ("failed", plain("rolag_reports_http_failed_requests_total")),
                           ("wrong tokens", plain("rolag_reports_http_wrong_tokens_total")),
                           ("refused", plain("rolag_reports_http_refused_requests_total")),
                           ("connections cut", plain("rolag_reports_http_cut_connections_total"))]),
    ]),
]


def panel(number, title, unit, queries, x, y):
    return {"id": number, "type": "timeseries", "title": title, "gridPos": {"h": 7, "w": 8, "x": x, "y": y},
            "datasource": {"type": "prometheus", "uid": "${source}"},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
            "targets": [{"refId": chr(65 + n), "expr": query, "legendFormat": legend} for n, (legend, query) in enumerate(queries)]}


def dashboard():
    panels, y = [], 0
    for title, content in ROWS:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for n, (name, unit, queries) in enumerate(content):
            panels.append(panel(len(panels) + 1, name, unit, queries, n % 3 * 8, y + n // 3 * 7))
        y += (len(content) + 2) // 3 * 7
    variables = [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                 {"name": "instance", "type": "query", "datasource": {"type": "prometheus", "uid": "${source}"},
                  "query": "label_values(rolag_apply_connected, instance)", "refresh": 2, "multi": True, "includeAll": True,
                  "current": {"text": "All", "value": "$__all"}}]
    return {"title": "rolag", "uid": "rolag", "schemaVersion": 37, "editable": True, "refresh": "10s", "tags": ["rolag"],
            "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "templating": {"list": variables},
            "annotations": {"list": []}, "panels": panels}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
