"""The pack's models and reports as files: what they promise each other. No database."""
import csv
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACK = ROOT / "transforms/lana"
LAYERS = ("staging", "intermediate", "outputs")
# Type of a report's column: what its model may deliver.
DELIVERS = {"decimal": {"numeric", "bigint"}, "int": {"integer", "bigint", "smallint"}, "short": {"integer", "smallint"},
            "date": {"date"}, "timestamp": {"timestamp with time zone"}, "boolean": {"boolean"},
            "json": {"jsonb", "text[]"}}
FACETS = {"text": {"length", "min_length", "max_length", "overflow", "space", "enum", "pattern"},
          "decimal": {"digits", "fraction", "zeros", "min", "max"}, "int": {"min", "max"}, "short": {"min", "max"},
          "date": {"format", "min", "max"}, "timestamp": set(), "boolean": set(), "json": set()}


def read(path):
    return yaml.safe_load((PACK / path).read_text(encoding="utf-8"))


REPORTS = read("reports.yaml")["reports"]
SQL = {path.stem: path.read_text(encoding="utf-8") for path in PACK.glob("models/*/*.sql")}
LAYER = {path.stem: path.parent.name for path in PACK.glob("models/*/*.sql")}
DECLARED = {m["name"]: m for layer in LAYERS for m in read(f"models/{layer}/schema.yml")["models"]}
SEEDS = {s["name"]: s for s in read("seeds/schema.yml")["seeds"]}


def checks_of(entry):
    """{column or None: [test …]}, a test as its name or {name: arguments}."""
    found = {None: entry.get("data_tests", [])}
    found.update((c["name"], c.get("data_tests", [])) for c in entry["columns"])
    return found


def grain(entry):
    """The columns that are tested to be unique together."""
    for column, tests in checks_of(entry).items():
        for test in tests:
            if test == "unique":
                return {column}
            if isinstance(test, dict) and "unique" in test:
                return set(test["unique"]["columns"])
    return None


# ---- reports --------------------------------------------------------------------------------------

def test_there_are_39_reports_with_72_files():
    assert len(REPORTS) == 39 and sum(len(r["formats"]) for r in REPORTS) == 72
    assert len({r["id"] for r in REPORTS}) == 39
    names = [(r["id"].split("/")[0], r["name"]) for r in REPORTS]
    assert len(set(names)) == 39
    assert [r["id"] for r in REPORTS if r.get("as_of")] == ["nrp_91/01_saldo_cuenta"]


def test_the_manual_names_every_key_that_a_report_uses():
    manual = (PACK / "REPORTS.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(\w+)(?:: true)?`", manual))
    used = set()
    for report in REPORTS:
        used |= set(report) | set(report.get("xml", {}))
        for column in report["columns"]:
            used |= set(column) | {column["type"]}
    assert used - known == set()


def test_a_columns_limits_are_those_of_its_type():
    for report in REPORTS:
        names = [c["name"] for c in report["columns"]]
        assert len(names) == len(set(names)), report["id"]
        assert ("xml" in report["formats"]) == ("xml" in report), report["id"]
        for column in report["columns"]:
            extra = set(column) - {"name", "type", "nillable"} - FACETS[column["type"]]
            assert not extra, (report["id"], column["name"], extra)
            assert not ("length" in column and "max_length" in column), (report["id"], column["name"])
            if "overflow" in column:
                assert "length" in column or "max_length" in column, (report["id"], column["name"])
            if "xml" in report:     # each is an element's name
                assert re.fullmatch(r"[^\W\d]\w*", column["name"]), (report["id"], column["name"])
            for value in column.get("enum", []):
                assert isinstance(value, str) and len(value) <= column.get("max_length", column.get("length"))


def test_a_reports_model_delivers_its_columns_in_their_order_with_their_types():
    for report in REPORTS:
        if report.get("empty"):
            assert "model" not in report and "order" not in report
            continue
        assert LAYER[report["model"]] == "outputs"
        columns = DECLARED[report["model"]]["columns"]
        names = [c["name"] for c in columns]
        assert names[:len(report["columns"])] == [c["name"] for c in report["columns"]], report["id"]
        for wanted, given in zip(report["columns"], columns):
            if wanted["type"] != "text":
                assert given["data_type"].split("(")[0] in DELIVERS[wanted["type"]], (report["id"], wanted["name"])


def test_a_reports_order_leaves_nothing_to_chance():
    for report in REPORTS:
        if "model" in report:
            unique = grain(DECLARED[report["model"]])
            assert unique and unique <= set(report["order"]), report["id"]


# ---- models ---------------------------------------------------------------------------------------

def test_every_model_is_declared_with_description_grain_and_the_type_of_each_column():
    assert set(SQL) == set(DECLARED)
    assert {p.stem for p in PACK.glob("seeds/*.csv")} == set(SEEDS)
    for name, entry in DECLARED.items():
        assert "Grain: one row per" in entry["description"] and len(entry["description"]) > 40, name
        assert entry["config"]["contract"]["enforced"] is True, name
        key = grain(entry)
        assert key, f"{name}: nothing is tested to be unique"
        tests = checks_of(entry)
        # A set without money has a row without currency.
        free = {"currency"} if name.startswith("int_account_sets_expanded_with_balances") else set()
        assert all("not_null" in tests[c] for c in key - free), name
        assert all(c.get("data_type") for c in entry["columns"]), name


def test_money_is_never_a_float():
    for name, entry in DECLARED.items():
        for column in entry["columns"]:
            type_ = column["data_type"]
            assert not re.match(r"(double|real|float|money|character)", type_), (name, column["name"])
            if re.search(r"_usd$", column["name"]) and "price" not in column["name"]:
                assert type_ == "numeric(19,2)", (name, column["name"], type_)
    for name, sql in SQL.items():
        assert not re.search(r"\b(float4|float8|float|real|double precision|money)\b", sql), name


def test_only_staging_reads_sources_and_only_what_is_declared_and_landed():
    declared = {s["name"]: {t["name"] for t in s["tables"]} for s in read("models/staging/sources.yml")["sources"]}
    used = {name: set() for name in declared}
    for name, sql in SQL.items():
        for source, table in re.findall(r"source\('(\w+)', *'(\w+)'\)", sql):
            assert LAYER[name] == "staging", name
            used[source].add(table)
    assert used == declared
    shipped = yaml.safe_load((ROOT / "deploy/lana.yaml").read_text(encoding="utf-8"))
    landed = set(shipped["mirrors"]["tables"])
    for rollup in shipped["rollups"]["land"]:
        landed |= {rollup, rollup + "_latest"}
    assert used["raw"] <= landed
    ddl = (PACK / "ext.sql").read_text(encoding="utf-8")
    assert set(re.findall(r"create table if not exists ext\.(\w+)", ddl)) == used["ext"]


def test_one_model_knows_the_day_and_none_asks_for_the_time():
    asks = re.compile(r"\b(now|clock_timestamp|transaction_timestamp|statement_timestamp|timeofday|random)\s*\(|"
                      r"\bcurrent_(date|time|timestamp)\b|\blocaltime(stamp)?\b", re.I)
    for name, sql in SQL.items():
        assert not asks.search(re.sub(r"--.*", "", sql)), name
    assert {name for name, sql in SQL.items() if re.search(r"var\('run_(at|day)'\)", sql)} == \
        {"int_run_day", "report_nrsf_03_05_agencias"}


def test_the_latest_model_has_the_columns_of_its_sequence():
    """They are two files that say the same of two landed tables."""
    pairs = [n for n in SQL if n.endswith("_rollup_sequence")]
    assert len(pairs) == 13
    for name in pairs:
        def body(n):
            return re.sub(r"--.*\n", "", SQL[n])
        one, all_ = body(name.removesuffix("_sequence")), body(name)
        entity = name[len("int_"):-len("_sequence")]
        assert one.replace(f"ref('stg_{entity}_latest')", f"ref('stg_{entity}')") == all_, name


def test_staging_of_a_rollup_is_the_same_for_all_versions_and_the_latest():
    for name, sql in SQL.items():
        if name.startswith("stg_") and name.endswith("_rollup"):
            latest = SQL[name + "_latest"]
            source = f"{name[len('stg_'):]}"
            assert re.sub(r"--.*\n", "", latest).replace(f"'{source}_latest'", f"'{source}'") == \
                re.sub(r"--.*\n", "", sql), name


# ---- seeds ----------------------------------------------------------------------------------------

def test_seeds_have_the_columns_that_are_declared():
    for name, entry in SEEDS.items():
        with open(PACK / f"seeds/{name}.csv", encoding="utf-8", newline="") as f:
            rows = list(csv.reader(f))
        assert rows[0] == [c["name"] for c in entry["columns"]], name


def test_bands_of_days_overdue_have_no_gap_and_no_overlap():
    for name in ("seed_risk_categories", "seed_loan_statuses"):
        with open(PACK / f"seeds/{name}.csv", encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        following = 0
        for row in rows[:-1]:
            assert int(row["from_days"]) == following, (name, row)
            following = int(row["to_days"]) + 1
        assert int(rows[-1]["from_days"]) == following and rows[-1]["to_days"] == ""
