"""The section `reports`: a run of all reports beside one psql script of the same compiled SQL, on the same rows."""
import datetime
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

import psycopg
import yaml
from contestants import DEFINITIONS, ROLAG, ROOT, query
from procs import wait_until
from psycopg.rows import dict_row

PACK = os.path.join(ROOT, "transforms", "lana")
DEMO = os.path.join(ROOT, "deploy", "demo")
REPORTS = os.path.join(PACK, "reports.yaml")
LAYERS = ("staging", "intermediate", "outputs", "seeds")
# The bank has a year for its events, whatever their number: so there are loans of all ages.
EVENTS_OF_SCALE_1 = 40_000
DAYS = 330
SMALL = "uif_07/diario_otros_medios_electronicos"
RUN_SECONDS = 1800


def settings_of():
    with open(os.path.join(ROOT, "deploy", "lana.yaml"), encoding="utf-8") as f:
        shipped = yaml.safe_load(f)
    return {"rollups": {"path": DEFINITIONS, "land": shipped["rollups"]["land"]}, "mirrors": shipped["mirrors"],
            "models": {"path": PACK}, "reports": {"definitions": REPORTS}}


def filled(servers, events):
    """A site whose warehouse has landed them, with the companion idle."""
    site = servers.new_site("reports", settings=settings_of())
    start = (datetime.date.today() - datetime.timedelta(days=DAYS)).replace(day=1)
    subprocess.run([sys.executable, os.path.join(DEMO, "lana_load.py"), "--connect", site.conninfo(), "--bulk", "--ledger",
                    "--events", str(events), "--scale", str(events / EVENTS_OF_SCALE_1), "--start", start.isoformat()],
                   check=True, stdout=subprocess.DEVNULL)
    rolag = site.rolag
    site.clone("template1", rolag.database)
    shutil.rmtree(rolag.folder)
    rolag.command("init")
    site.warehouse.psql(file=os.path.join(PACK, "ext.sql"), database=rolag.database)
    rolag.run()
    wait_until(rolag.live, "rolag's first load")
    subprocess.run([sys.executable, os.path.join(DEMO, "outside.py"), "--warehouse", rolag.conninfo], check=True,
                   stdout=subprocess.DEVNULL)
    query(rolag.conninfo, "vacuum analyze")
    return site


# ---- rolag ------------------------------------------------------------------------------------------

def requested(rolag, *options):
    """A run from the request to its end: its id, and seconds in all and by part."""
    run = rolag.command("report", "run", *options).split()[0]
    with psycopg.connect(rolag.conninfo, autocommit=True, row_factory=dict_row) as conn:
        row = wait_until(lambda: conn.execute("select * from rolag.report_run where id = %s and ended_at is not null",
                                              (run,)).fetchone(), "a run of reports", RUN_SECONDS)
    if row["state"] != "published":
        raise RuntimeError(f"the run has {row['state']}: {row['reason']}")
    spans = {"seconds": ("requested_at", "ended_at"), "waiting": ("requested_at", "building_at"),
             "building": ("building_at", "writing_at"), "writing": ("writing_at", "ended_at")}
    return {"id": str(row["id"]), **{name: (row[end] - row[begin]).total_seconds() for name, (begin, end) in spans.items()}}


def forget(rolag):
    """What was built before does not count: a new run makes everything."""
    query(rolag.conninfo, "update rolag.model set fingerprint = 'none'")
    query(rolag.conninfo, "update rolag.model_test set fingerprint = 'none'")


# ---- psql -------------------------------------------------------------------------------------------

def compiled(rolag, name, day, *options):
    """A model's SQL in schemas of the script's own."""
    sql = rolag.command("models", "compile", name, "--as-of", day, *options)
    return re.sub(r"\b(%s)\." % "|".join(LAYERS), r"peer_\1.", re.sub(r'"(%s)"\.' % "|".join(LAYERS), r"\1.", sql))


def ident(name):
    return '"%s"' % name.replace('"', '""')


def copies(report, folder):
    """A psql command per file of a report; the xml by the server's own functions."""
    columns = ", ".join(ident(c["name"]) for c in report["columns"])
    rows = f'select {columns} from peer_outputs."{report["model"]}" order by {", ".join(map(ident, report["order"]))}'
    for form in report["formats"]:
        path = os.path.join(folder, report["id"].replace("/", "_") + "." + form)
        if form == "xml":
            body = f"select xmlelement(name \"{report['xml']['row']}\", xmlforest({columns})) from ({rows}) r"
            yield f"\\copy ({body}) to '{path}'"
        else:
            yield f"\\copy ({rows}) to '{path}' csv header delimiter '{',' if form == 'csv' else '|'}'"


def script(rolag, folder, day, tests):
    """One transaction: every model as the project makes it, ANALYZE of each table, perhaps its tests, every file with
    a model."""
    with open(REPORTS, encoding="utf-8") as f:
        reports = yaml.safe_load(f)["reports"]
    kinds = {name: (layer, kind, schema) for name, layer, kind, schema in query(
        rolag.conninfo, "select distinct on (name) name, layer, kind, relation_schema from rolag.model m "
        "join rolag.model_run using (run_id) order by name, built_at desc")}
    lines = ["\\set ON_ERROR_STOP on", "begin isolation level repeatable read;", "set local timezone = 'UTC';"]
    lines += [f"create schema peer_{layer};" for layer in LAYERS]
    tested = []
    for line in rolag.command("models", "ls").splitlines():
        name = line.split()[0]
        if name not in kinds:       # nothing of a report
            continue
        layer, kind, schema = kinds[name]
        if layer == "seeds":
            lines.append(f'create table peer_seeds."{name}" as table {schema}."{name}";')
            continue
        lines.append(f"create {kind} peer_{layer}.\"{name}\" as\n{compiled(rolag, name, day)};")
        if kind == "table":
            lines.append(f'analyze peer_{layer}."{name}";')
        if tests:
            tested.append(compiled(rolag, name, day, "--tests"))
    lines += tested
    for report in reports:
        if "model" in report:
            lines += copies(report, folder)
    return "\n".join([*lines, "commit;", ""])


def scripted(site, path):
    """Seconds of psql for the script."""
    query(site.rolag.conninfo, "drop schema if exists " + ", ".join(f"peer_{layer}" for layer in LAYERS) + " cascade")
    began = time.monotonic()
    subprocess.run([f"{site.core.bin}/psql", "-X", "-q", "-f", path, site.rolag.conninfo], check=True,
                   stdout=subprocess.DEVNULL)
    return time.monotonic() - began


# ---- the section ------------------------------------------------------------------------------------

def reports(servers, a):
    site = filled(servers, a.events)
    rolag, raw = site.rolag, {"psql": [], "tested": [], "all": [], "same": [], "small": []}
    day = (datetime.date.today() - datetime.timedelta(days=1)).isoformat()
    requested(rolag)        # so that what is landed has been read once, and the script can be written
    folder = os.path.join(site.folder, "psql")
    os.mkdir(folder)
    path = {name: os.path.join(folder, name + ".sql") for name in ("psql", "tested")}
    for name, at in path.items():
        with open(at, "w", encoding="utf-8") as f:
            f.write(script(rolag, folder, day, name == "tested"))
    for _ in range(a.repeats):
        for name, at in path.items():
            servers.quiesce()
            raw[name].append(scripted(site, at))
        forget(rolag)
        servers.quiesce()
        raw["all"].append(requested(rolag, "--as-of", day))
        servers.quiesce()
        raw["same"].append(requested(rolag, "--as-of", day))
        raw["small"].append(requested(rolag, "--report", SMALL))
    if any(built_of(rolag, run) for run in raw["same"]):
        raise RuntimeError("a model was built although nothing had changed")
    rows_, files_ = made_of(rolag, raw["all"][-1])
    rolag.detach()
    peer, tested = statistics.median(raw["psql"]), statistics.median(raw["tested"])
    lines = [["one psql script: models, files", f"{peer:.2f}", "1.00", f"{peer / tested:.2f}", "", ""],
             ["one psql script: models, tests, files", f"{tested:.2f}", f"{tested / peer:.2f}", "1.00", "", ""]]
    for title, name in (("rolag, everything anew", "all"), ("rolag, nothing changed", "same"),
                        ("rolag, one small report, nothing changed", "small")):
        seconds, building, writing = (statistics.median(r[key] for r in raw[name]) for key in ("seconds", "building", "writing"))
        lines.append([title, f"{seconds:.2f}", f"{seconds / peer:.2f}", f"{seconds / tested:.2f}", f"{building:.2f}",
                      f"{writing:.2f}"])
    return (["", "seconds", "÷ models, files", "÷ models, tests, files", "building", "writing"], lines,
            f"{a.events:,} events; models with {rows_:,} rows in tables, {files_} files. A script makes the same tables and "
            "views, ANALYZEs, and writes csv, txt and xml by \\copy; it checks no limit, validates no schema, publishes no "
            "view, syncs no file, waits for no fence. Goals: 1.10, 0.05, and 1 s.", raw)


def built_of(rolag, run):
    """How many models a run has made itself."""
    return query(rolag.conninfo, "select count(*) from rolag.model where run_id = %s and not reused and relation_schema is "
                 "not null", run["id"])[0][0]


def made_of(rolag, run):
    """(rows in tables of models, files)"""
    return (query(rolag.conninfo, "select sum(rows)::bigint from rolag.model where run_id = %s", run["id"])[0][0],
            query(rolag.conninfo, "select count(path) from rolag.report_file where run_id = %s", run["id"])[0][0])
