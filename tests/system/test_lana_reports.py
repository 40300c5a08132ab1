"""Every report of the pack, from the events to its files: one small bank, one run of all 39, golden files.

The bank is the simulated one with a ledger, the same every time; the run's day is set in the control table, so that
the files are the same whenever this runs. `ROLAG_GOLDEN=write` writes tests/data/reports/ anew: look at what changed.
"""
import csv
import datetime
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import lana_cases
import psycopg
import pytest
import yaml
from companion import Companion
from pipeline import ROOT

sys.path.insert(0, os.path.join(ROOT, "tests", "oracle"))

import loans  # noqa: E402

PACK = os.path.join(ROOT, "transforms", "lana")
GOLDEN = os.path.join(ROOT, "tests", "data", "reports")
# The simulated bank opens here, in hard times; its newest event is of the day before the run. By then there are loans
# of every category, defaults, liquidations, and accounts that are closed.
LOAD = "--events", "9600", "--seed", "4", "--scale", "0.12", "--hard-times", "--start", "2024-10-01"
RUN_AT, AS_OF = "2025-11-14 12:00:00+00", "2025-09-30"
ANSWERED_AT = "2025-11-13 09:00:00+00"
REPORTS, FILES = 39, 72


def read_yaml(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return yaml.safe_load(f)


class Bank(Companion):
    """The pipeline of deploy/lana.yaml with a companion, its history written and applied."""

    def fill(self):
        shipped = read_yaml("deploy/lana.yaml")
        self.load("--bulk", "--ledger", *LOAD)
        with psycopg.connect(self.core_conninfo) as core:
            lana_cases.add_cases(core)
        self.configure({"mirrors": shipped["mirrors"], "models": {"path": PACK},
                        "reports": {"definitions": os.path.join(PACK, "reports.yaml")}})
        self.init()
        self.outside("ext.sql")
        self.set_clock()
        self.start()
        self.wait_applied()
        self.outside()
        lana_cases.answer(self.warehouse, ANSWERED_AT)
        return self

    def outside(self, schema=None):
        command = ["psql", self.warehouse_conninfo, "-q", "-v", "ON_ERROR_STOP=1", "-f", os.path.join(PACK, schema)] \
            if schema else [sys.executable, os.path.join(ROOT, "deploy/demo/outside.py"), "--warehouse",
                            self.warehouse_conninfo, "--days", "1"]
        subprocess.run(command, check=True, capture_output=True)

    def set_clock(self):
        """Behind the fence, and before a model is built, a run was asked for at RUN_AT."""
        self.warehouse("create function public.set_clock() returns trigger language plpgsql as $$ begin "
                       f"new.requested_at := '{RUN_AT}'; return new; end $$")
        self.warehouse("create trigger set_clock before update on rolag.report_run for each row "
                       "when (new.state = 'building') execute function public.set_clock()")

    def ask_all(self, *options):
        code, out, err = self.run("report", "run", "--wait", "--as-of", AS_OF, *options)
        assert code == 0, out + err + self.reports.text()[-3000:]
        return out.splitlines()[0]


@pytest.fixture(scope="module")
def bank(core_cluster, warehouse_cluster):
    p = Bank("lanareports", tempfile.mkdtemp(prefix="rolag-lana-reports-"), core_cluster, warehouse_cluster,
             warehouse_cluster, land=read_yaml("deploy/lana.yaml")["rollups"]["land"])
    try:
        p.create().fill()
        p.first = p.ask_all()
        yield p
    finally:
        p.release()


def definitions():
    return read_yaml("transforms/lana/reports.yaml")["reports"]


def files_below(folder):
    """{path: bytes}"""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


def reports_of(p, run):
    """The reports' files of a run; not what tells of the run itself."""
    return {path: data for path, data in files_below(p.path(run)).items() if "/" in path}


def test_every_report_is_there_in_every_format_or_its_omission_is_declared(bank):
    manifest = bank.check_whole(bank.first)
    wanted = {(r["id"], f) for r in definitions() for f in r["formats"]}
    assert len(definitions()) == REPORTS and len(wanted) == FILES
    assert {(f["report"], f["format"]) for f in manifest["files"]} == wanted and len(manifest["files"]) == FILES
    empty = {r["id"] for r in definitions() if r.get("empty")}
    omitted = {(f["report"], f["omitted"]) for f in manifest["files"] if f["path"] is None}
    assert omitted == {(r["id"], "schema wants a row") for r in definitions() if r.get("empty") and "xml" in r["formats"]}
    for f in manifest["files"]:
        assert f["rows"] == 0 or f["report"] not in empty
    # Of those with a model, only the bank's own list of agencies has nothing in it.
    assert {f["report"] for f in manifest["files"] if f["rows"] == 0} == empty | {"nrsf_03/05_agencias"}


def test_golden_files(bank):
    """Byte for byte, all of them."""
    made = reports_of(bank, bank.first)
    if os.environ.get("ROLAG_GOLDEN") == "write":
        for path, data in made.items():
            os.makedirs(os.path.dirname(os.path.join(GOLDEN, path)), exist_ok=True)
            with open(os.path.join(GOLDEN, path), "wb") as f:
                f.write(data)
    golden = files_below(GOLDEN)
    assert sorted(made) == sorted(golden)
    assert [path for path in sorted(made) if made[path] != golden[path]] == []


def test_xml_is_valid_for_xmllint_too_and_says_what_the_csv_says(bank):
    """The second opinion is of another program; the csv is written by other code."""
    checked = 0
    for report in definitions():
        path = bank.path(bank.first, os.path.dirname(report["id"]), report["name"])
        if not os.path.exists(path + ".xml"):
            continue
        code, schema, err = bank.run("report", "xsd", report["id"])
        assert code == 0, err
        bank.write("schema.xsd", schema)
        done = subprocess.run(["xmllint", "--noout", "--schema", os.path.join(bank.folder, "schema.xsd"), path + ".xml"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with open(path + ".csv", encoding="utf-8", newline="") as f:
            head, *rows = csv.reader(f)
        space = "{%s}" % report["xml"]["namespace"]
        root = xml.etree.ElementTree.parse(path + ".xml").getroot()
        assert root.tag == space + report["xml"]["root"] and rows
        assert [[(e.tag.removeprefix(space), e.text or "") for e in row] for row in root] == \
            [list(zip(head, row)) for row in rows]
        checked += 1
    assert checked == 6


def rows_of(p, path):
    with open(p.path(p.first, path), encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def money(cents):
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


@pytest.fixture(scope="module")
def expected(bank):
    """(loans, balances) of tests/oracle/loans.py, from the core's events alone, on the run's day."""
    with psycopg.connect(bank.core_conninfo, options="-c timezone=UTC") as conn:
        return loans.figures(conn, datetime.date.fromisoformat(RUN_AT[:10]))


def test_the_files_say_of_every_loan_what_its_events_do(bank, expected):
    """Second computation: disbursed, interest, balance, days overdue, category, reserve; loans of every category."""
    wanted = {n: x for n, x in expected[0].items() if x.reported}
    assert len(expected[0]) >= 20 and {x.category for x in wanted.values()} == {c for _, c, _ in loans.CATEGORIES}
    assert any(x.reserve > 0 for x in wanted.values()) and any(x.interest_paid for x in wanted.values())
    got = {row["num_referencia"]: tuple(row[name] for name in (
        "monto_referencia", "saldo_vigente_k", "saldo_vigente_i", "saldo_referencia", "dias_mora_k", "dias_mora_i",
        "categoria_riesgo_ref", "riesgo_neto", "reserva_referencia")) for row in rows_of(bank, "nrp_92/referencia.csv")}
    assert got == {n: (money(x.disbursed), money(x.disbursed - x.principal_paid), money(x.incurred - x.interest_paid),
                       money(x.balance), str(x.days_principal), str(x.days_interest), x.category, money(x.risk),
                       money(x.reserve)) for n, x in wanted.items()}


def test_other_files_agree_with_them(bank, expected):
    """The portfolio has matured loans, too; the net risk its reserve; the statement what was paid."""
    name = "Número de desembolso"
    portfolio = {row[name]: (row["Monto desembolsado"], row["Saldo de Principal"], row["Saldo de Interés"],
                             row["Monto de Reserva"]) for row in rows_of(bank, "other/reporte_de_cartera_de_prestamos.csv")}
    assert portfolio == {n: (money(x.disbursed), money(x.disbursed - x.principal_paid), money(x.incurred - x.interest_paid),
                             money(x.reserve) if x.reported else "") for n, x in expected[0].items()}
    risk = {row[name]: (row["Deuda Total"], row["Monto de Garantía"], row["Categoria B"], row["Reserva"])
            for row in rows_of(bank, "other/calculo_de_riesgo_neto.csv")}
    assert risk == {n: (money(x.balance), money(x.collateral), x.category, money(x.reserve))
                    for n, x in expected[0].items() if x.reported}
    paid = {}
    for row in rows_of(bank, "other/estado_de_cuenta_de_prestamo.csv"):
        of_row = [int(row[column].replace(".", "")) if row["Transacción"] == "Pago" else 0 for column in ("Principal", "Interes")]
        paid[row[name]] = [a + b for a, b in zip(paid.get(row[name], [0, 0]), of_row)]
    assert paid == {n: [x.principal_paid, x.interest_paid] for n, x in expected[0].items()}


def test_the_file_says_of_every_account_what_its_events_do(bank, expected):
    with psycopg.connect(bank.core_conninfo) as conn:
        ids = dict(conn.execute("select public_id, upper(replace(id::text, '-', '')) from core_deposit_accounts"))
        closed, = conn.execute("select count(*) from core_deposit_account_events where event_type = 'closed'").fetchone()
    got = {row["Número de cuenta"]: row["Saldo total"] for row in rows_of(bank, "nrsf_03/depositos.csv")}
    trimmed = {ids[n][:20]: money(cents).rstrip("0").rstrip(".") for n, cents in expected[1].items()}
    assert got == trimmed and len(got) >= 10 and closed > 0


def test_what_is_out_to_break_a_file_stays_in_its_field(bank):
    """Text of each kind, read back by another reader: csv here; XML above, against the csv."""
    concepts = {row["conceptotransaccionpo"] for row in rows_of(bank, "uif_07/diario_otros_medios_electronicos.csv")}
    # One deposit in twelve is reverted, and not in the file.
    assert len(set(lana_cases.HOSTILE) & concepts) >= len(lana_cases.HOSTILE) - 1
    names = " ".join(row["Nombre del cliente"] for row in rows_of(bank, "other/reporte_de_cartera_de_prestamos.csv"))
    assert [text for text in lana_cases.HOSTILE if text not in names] == []
    with open(bank.path(bank.first, "nrsf_03/cliente.txt"), encoding="utf-8", newline="") as f:
        addresses = [row["Dirección"] for row in csv.DictReader(f, delimiter="|")]
    assert addresses[0] == lana_cases.HOSTILE[0] and set(lana_cases.HOSTILE[:10]) <= set(addresses)
    aside = [row for row in rows_of(bank, "other/historial_de_pagos.csv") if row["unallocated_usd"] != "0.00"]
    assert [(row["amount_usd"], row["number_allocations"], row["obligation_type"]) for row in aside] == [("1234.56", "0", "[]")]


def test_the_same_moment_gives_the_same_bytes(bank):
    """A second run that builds everything again, and a rerun after the files are gone."""
    first = reports_of(bank, bank.first)
    bank.warehouse("update rolag.model set fingerprint = 'none'")
    second = bank.ask_all()
    assert second != bank.first and not any(m["reused"] for m in bank.manifest(second)["build"]["models"])
    assert reports_of(bank, second) == first
    os.unlink(bank.path(bank.first, "nrp_92", "referencia.xml"))
    code, out, err = bank.run("report", "rerun", bank.first)
    assert code == 0, out + err
    assert reports_of(bank, bank.first) == first
    code, out, err = bank.run("report", "verify", bank.first)
    assert code == 0 and "55 of 55" in out, out + err


def test_reports_are_selectors_of_models(bank):
    code, out, err = bank.run("models", "ls", "report:nrp_91/01_saldo_cuenta")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["report_nrp_91_01_saldo_cuenta"], err
    code, out, err = bank.run("models", "ls", "report:nrp_92/04_garantia_hipotecaria")
    assert (code, out) == (0, ""), err
    code, out, err = bank.run("models", "ls", "report:nrp_92/02_referenca")
    assert code == 2 and "did you mean nrp_92/02_referencia?" in err, err
    code, out, err = bank.run("models", "build", "report:uif_07/diario_otros_medios_electronicos")
    assert code in (0, 1), err
    assert "outputs.report_uif_07_diario_otros_medios_electronicos: table" in out and "saldo_cuenta" not in out
    code, out, err = bank.run("report", "list", "--reports")
    assert code == 0 and len(out.splitlines()) == REPORTS, err
    assert [line.split()[0] for line in out.splitlines()] == [r["id"] for r in definitions()]


# ---- what did not change --------------------------------------------------------------------------

def built_by(p, run):
    """Names of the models whose relations a run has made itself."""
    return {name for name, in p.warehouse("select name from rolag.model where run_id = %s and not reused and "
                                          "relation_schema is not null", run)}


def inodes(p, run):
    return {path: os.stat(p.path(run, path)).st_ino for path in reports_of(p, run)}


def test_a_second_run_with_nothing_changed_builds_nothing_and_publishes(bank):
    """No model, no test, and no file is made again; but it is a run of its own, whole."""
    before = bank.ask_all()
    run = bank.ask_all()
    assert built_by(bank, run) == set()
    assert bank.warehouse("select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = "
                          "'rolag_run_' || replace(%s, '-', '')", run) == [(0,)]
    manifest = bank.check_whole(run)
    assert all(t["reused"] for t in manifest["build"]["tests"]) and all(
        m["reused"] for m in manifest["build"]["models"] if m["name"] in made_by_reports(bank))
    assert bank.state(run) == "published" and reports_of(bank, run) == reports_of(bank, before)
    of_models = {
        f"{r['id'].split('/')[0]}/{r['name']}.{form}" for r in definitions() if "model" in r for form in r["formats"]}
    linked, old = inodes(bank, run), inodes(bank, before)
    assert {path for path in linked if linked[path] == old[path]} == of_models
    assert bank.manifest(before)["freshness"]["fence_lsn"] < manifest["freshness"]["fence_lsn"]


def made_by_reports(p):
    """Models that have a relation of their own in some run."""
    return {name for name, in p.warehouse("select distinct name from rolag.model where relation_schema is not null")}


def test_a_published_file_that_was_tampered_with_is_not_linked(bank):
    before = bank.ask_all()
    good = reports_of(bank, before)
    path = "nrp_92/referencia.csv"
    with open(bank.path(before, path), "ab") as f:
        f.write(b"x")
    run = bank.ask_all()
    assert reports_of(bank, run) == good and bank.check_whole(run)
    changed = {p for p, inode in inodes(bank, run).items() if inode != inodes(bank, before)[p]}
    assert {path, "nrp_92/referencia.xml"} <= changed and "uif_07/diario_otros_medios_electronicos.csv" not in changed
    code, out, err = bank.run("report", "verify", before)
    assert code == 1 and path in out + err
    # Written anew, the run has files of its own.
    code, out, err = bank.run("report", "rerun", run)
    assert code == 0, out + err
    assert reports_of(bank, run) == good and not set(inodes(bank, run).values()) & set(inodes(bank, before).values())


def test_one_changed_source_builds_what_is_downstream_and_nothing_else(bank):
    bank.ask_all()
    with psycopg.connect(bank.core_conninfo) as core:
        id_, sequence = core.execute("select id, max(sequence) from core_party_events group by id order by id limit 1").fetchone()
        core.execute("insert into core_party_events (id, sequence, event_type, event, recorded_at) values (%s, %s, "
                     "'telegram_handle_updated', '{\"type\": \"telegram_handle_updated\", \"telegram_handle\": \"@new\"}', now())",
                     (id_, sequence + 1))
    run = bank.ask_all()
    code, out, err = bank.run("models", "ls", "stg_core_party_events_rollup+", "stg_core_party_events_rollup_latest+")
    assert code == 0, err
    downstream = {line.split()[0] for line in out.splitlines()}
    built = built_by(bank, run)
    assert "report_nrsf_03_01_cliente" in built and built <= downstream
    assert built == downstream & made_by_reports(bank)
    assert bank.state(run) == "published" and bank.check_whole(run)
