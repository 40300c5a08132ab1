#!/usr/bin/python3
"""An independent judge of the warehouse's rollups.

From its own rules (tests/data/lana_fold_rules.yaml) it makes, in a throwaway *oracle database*, the event
tables, the rollup tables and the PL/pgSQL triggers that fold the one into the other as the core's own
triggers do: PostgreSQL itself does every cast. It copies the core's events in, and compares the rows with
those of the warehouse, every column as text.

  oracle.py --core CONNINFO --oracle CONNINFO --warehouse CONNINFO [--schema raw] [--rollups a,b] [--json]

Called again it copies only what is new. Findings name rollup, key and column, never values.
Exit: 0 equal, 1 findings, 2 usage or a database that cannot be reached.
"""
import argparse
import json
import os
import sys
from collections import namedtuple

import psycopg
import yaml

RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lana_fold_rules.yaml")
FIXED = [("id", "uuid"), ("version", "integer"), ("created_at", "timestamptz"), ("modified_at", "timestamptz"),
         ("event_type", "text")]
OURS = {"_lsn", "_committed_at"}    # columns of the warehouse that no event has
SCHEMA = "oracle"
# One line of the verdict: what is wrong with which row (key is "id,version" or "id", or "") and column.
Finding = namedtuple("Finding", "rollup what key column")
# All text must be printed alike on both sides.
SESSION = ("-c timezone=UTC -c datestyle=ISO,MDY -c intervalstyle=postgres -c extra_float_digits=1 "
           "-c bytea_output=hex -c search_path=pg_catalog")


def connect(conninfo):
    return psycopg.connect(conninfo, autocommit=True, application_name="oracle", options=SESSION)


def read_rules(path=RULES):
    with open(path, encoding="utf-8") as f:
        return yaml.safe_load(f)


# ---- rules to SQL -------------------------------------------------------------------------------

def quote(name):
    return '"' + name.replace('"', '""') + '"'


def literals(names):
    return ", ".join("'" + n.replace("'", "''") + "'" for n in names)


def columns_of(rule):
    """Every column that a row has, in order: (name, type)."""
    return FIXED + [(name, c["type"]) for name, c in rule["columns"].items()]


def taken(name, type_):
    """The payload's value of key `name` as the column's type."""
    if type_ == "jsonb":
        return f"(new.event -> '{name}')"
    return f"(new.event ->> '{name}')::{type_}"


def whole_array(name, type_, otherwise):
    element = type_[:-2]
    return (f"case when new.event ? '{name}' then array(select e::{element} from "
            f"jsonb_array_elements_text(new.event -> '{name}') with ordinality as x(e, n) order by n) "
            f"else {otherwise} end")


def first_value(name, column):
    if "toggle" in column:
        return "false"
    if "item" in column:
        return whole_array(name, column["type"], f"'{{}}'::{column['type']}")
    return taken(name, column["type"])


def actions(name, column):
    """What the named event types do to a column: (event types, expression)."""
    field, type_ = quote(name), column["type"]
    if "toggle" in column:
        return [(column["toggle"], "true")]
    if "item" not in column:
        return [(column["set"], taken(name, type_))]
    before = f"coalesce(prev.{field}, '{{}}'::{type_})"
    item = taken(column["item"], type_[:-2])
    found = [(column.get("append"), f"array_append({before}, {item})"),
             (column.get("remove"), f"array_remove({before}, {item})"),
             (column.get("replace"), whole_array(name, type_, f"cur.{field}"))]
    return [(types, expression) for types, expression in found if types]


def trigger_body(rollup, rule):
    """The fold of one event in PL/pgSQL: prev is the row before, cur the row that is made."""
    first, later, acts = [], [], []
    for name, column in rule["columns"].items():
        field = quote(name)
        first.append(f"cur.{field} := {first_value(name, column)};")
        later.append(f"cur.{field} := prev.{field};")
        for types, expression in actions(name, column):
            if types:
                acts.append(f"if new.event_type in ({literals(types)}) then cur.{field} := {expression}; end if;")
    table = f"{SCHEMA}.{quote(rollup)}"
    return "\n".join([
        f"declare prev {table}%rowtype; cur {table}%rowtype;", "begin",
        f"if new.event_type not in ({literals(rule['types'])}) then",
        "raise exception 'unknown event type %', new.event_type; end if;",
        "if new.sequence > 1 then",
        f"select * into prev from {table} where id = new.id and version = new.sequence - 1; end if;",
        "cur.id := new.id; cur.version := new.sequence; cur.event_type := new.event_type;",
        "cur.created_at := coalesce(prev.created_at, new.recorded_at); cur.modified_at := new.recorded_at;",
        "if prev.id is null then", *first, "else", *later, "end if;", *acts,
        f"insert into {table} values (cur.*);", "return null;", "end"])


def ddl(rollup, rule):
    events = f"{SCHEMA}.{quote(rule['events'])}"
    table = f"{SCHEMA}.{quote(rollup)}"
    columns = ", ".join(f"{quote(n)} {t}" for n, t in columns_of(rule))
    return f"""
        create unlogged table {events} (id uuid not null, sequence integer not null, event_type varchar not null,
            event jsonb not null, recorded_at timestamptz not null, unique (id, sequence));
        create unlogged table {table} ({columns}, primary key (id, version));
        create function {SCHEMA}.{quote('fold_' + rollup)}() returns trigger language plpgsql as
            $fold$ {trigger_body(rollup, rule)} $fold$;
        create trigger fold after insert on {events} for each row
            execute function {SCHEMA}.{quote('fold_' + rollup)}();
    """


# ---- the oracle ---------------------------------------------------------------------------------

class Oracle:
    """Rules, and a connection to the database that folds by them. only: an SQL condition; rows of both ends for which
    it does not hold are left out."""

    def __init__(self, conninfo, rules=None, rollups=None, only="true"):
        self.only = only
        every = rules or read_rules()
        self.rules = {name: every[name] for name in (rollups or every)}
        self.conn = connect(conninfo)
        self.prepare(every)

    def close(self):
        self.conn.close()

    def prepare(self, every):
        """Makes the tables and triggers unless they are there."""
        with self.conn.transaction():
            self.conn.execute(f"create schema if not exists {SCHEMA}")
            for rollup, rule in every.items():
                here = self.conn.execute("select to_regclass(%s)", (f"{SCHEMA}.{quote(rollup)}",)).fetchone()[0]
                if here is None:
                    self.conn.execute(ddl(rollup, rule))

    def forget(self):
        """Empties every table."""
        tables = [t for rollup, rule in self.rules.items() for t in (rollup, rule["events"])]
        self.conn.execute("truncate " + ", ".join(f"{SCHEMA}.{quote(t)}" for t in tables))

    def copy_events(self, core):
        """Takes in the core's new events in (id, sequence) order; returns how many."""
        taken_in = 0
        with connect(core) as source:
            for rule in self.rules.values():
                taken_in += self.copy_table(source, rule["events"])
        return taken_in

    def copy_table(self, source, table):
        """All events go through a temporary table, so that only the new ones meet the trigger."""
        name, here = f"public.{quote(table)}", f"{SCHEMA}.{quote(table)}"
        there = source.execute(f"select count(*) from {name} where {self.only}").fetchone()[0]
        if there == self.conn.execute(f"select count(*) from {here}").fetchone()[0]:
            return 0
        fields = "id, sequence, event_type, event, recorded_at"
        with self.conn.transaction():
            self.conn.execute(f"create temp table fresh on commit drop as select {fields} from {here} limit 0")
            with source.cursor() as a, self.conn.cursor() as b:
                with a.copy(f"copy (select {fields} from {name} where {self.only}) to stdout (format binary)") as out, \
                        b.copy(f"copy pg_temp.fresh ({fields}) from stdin (format binary)") as into:
                    for block in out:
                        into.write(bytes(block))
            return self.conn.execute(
                f"insert into {here} select {fields} from pg_temp.fresh f where not exists "
                f"(select from {here} e where e.id = f.id and e.sequence = f.sequence) "
                "order by id, sequence").rowcount

    def fold(self, events, errors=None):
        """Folds events given as dicts {table, id, sequence, event_type, event, recorded_at}, or as JSON lines.

        They are taken in the order given. Returns {rollup: [{column: text or None}, …]} of all rows
        that the oracle holds, by id and version. With a list `errors`, an event that PostgreSQL
        refuses is noted there as (table, id, sequence, SQLSTATE) and passed over.
        """
        tables = {rule["events"] for rule in self.rules.values()}
        for event in events:
            given = json.loads(event) if isinstance(event, (str, bytes)) else event
            if given["table"] not in tables:
                raise ValueError(f"no rule for table {given['table']}")
            self.fold_one(given, event, errors)
        return {rollup: self.rows(rollup) for rollup in self.rules}

    def fold_one(self, given, line, errors):
        # A line's payload goes to jsonb as it is spelled, numbers and all.
        text, path = (line, "%s::jsonb -> 'event'") if isinstance(line, (str, bytes)) else \
            (json.dumps(given["event"]), "%s::jsonb")
        if isinstance(text, bytes):
            text = text.decode()
        statement = (f"insert into {SCHEMA}.{quote(given['table'])} (event, id, sequence, event_type, recorded_at) "
                     f"values ({path}, %s, %s, %s, %s)")
        try:
            with self.conn.transaction():
                self.conn.execute(statement, (text, given["id"], given["sequence"], given["event_type"],
                                              given["recorded_at"]))
        except psycopg.Error as error:
            if errors is None:
                raise
            errors.append((given["table"], given["id"], given["sequence"], error.sqlstate))

    def rows(self, rollup):
        names = [n for n, _ in columns_of(self.rules[rollup])]
        shown = ", ".join(f"{quote(n)}::text" for n in names)
        found = self.conn.execute(f"select {shown} from {SCHEMA}.{quote(rollup)} order by id, version")
        return [dict(zip(names, row)) for row in found]

    def compare(self, warehouse, schema="raw", latest=True, most=20):
        """Every difference between the oracle's rows and the warehouse's, at most `most` rows per table."""
        findings = []
        with connect(warehouse) as conn:
            for rollup, rule in self.rules.items():
                judge = Judge(self.conn, conn, rollup, columns_of(rule), schema, most, self.only)
                findings += judge.table(rollup, "", ("id", "version"))
                if latest:
                    findings += judge.table(rollup + "_latest", "_latest", ("id",))
        return findings


class Judge:
    """Compares one rollup."""

    def __init__(self, oracle, warehouse, rollup, columns, schema, most, only="true"):
        self.oracle, self.warehouse = oracle, warehouse
        self.rollup, self.columns, self.schema, self.most, self.only = rollup, columns, schema, most, only

    def table(self, name, suffix, key):
        """The findings of history (suffix "") or of the latest rows."""
        there = dict(self.warehouse.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = to_regclass(%s) "
            "and attnum > 0 and not attisdropped", (f"{quote(self.schema)}.{quote(name)}",)).fetchall())
        if not there:
            return [Finding(name, "table missing", "", "")]
        wanted = [n for n, _ in self.columns]
        findings = [Finding(name, "column missing", "", n) for n in [*wanted, "_lsn"] if n not in there]
        findings += [Finding(name, "column not declared", "", n) for n in there if n not in wanted and n not in OURS]
        types = {"character varying": "varchar", "timestamp with time zone": "timestamptz",
                 "character varying[]": "varchar[]"}
        for n, type_ in self.columns:
            # varchar and text print alike, and either may stand for the other.
            mine, theirs = type_.replace("varchar", "text"), types.get(there.get(n), there.get(n))
            if theirs is not None and theirs.replace("varchar", "text") != mine:
                findings.append(Finding(name, "column of another type", "", n))
        if any(f.what == "column missing" for f in findings):
            return findings
        ours, theirs = self.sources(name, suffix)
        return findings + self.without_lsn(theirs, name, key) + self.differences(name, ours, theirs, key)

    def sources(self, name, suffix):
        """What to select from in the oracle and in the warehouse."""
        ours = f"{SCHEMA}.{quote(self.rollup)}"
        if suffix:
            ours = f"(select distinct on (id) * from {ours} order by id, version desc)"
        return ours, f"(select * from {quote(self.schema)}.{quote(name)} where {self.only})"

    def without_lsn(self, source, name, key):
        shown = " || ',' || ".join(f"{k}::text" for k in key)
        rows = self.warehouse.execute(f"select {shown} from {source} r where _lsn is null limit {self.most}")
        return [Finding(name, "column is null", row[0], "_lsn") for row in rows]

    def differences(self, name, ours, theirs, key):
        """Rows missing, twice, too many or unequal. Rows are first compared by a hash of all columns."""
        mine, other = self.hashes(self.oracle, ours, key), self.hashes(self.warehouse, theirs, key)
        findings = [Finding(name, "row twice", k, "") for k in other.pop(None, [])[:self.most]]
        mine.pop(None, None)
        missing = sorted(k for k in mine if k not in other)
        extra = sorted(k for k in other if k not in mine)
        unequal = sorted(k for k, h in mine.items() if k in other and other[k] != h)
        findings += [Finding(name, "row missing", k, "") for k in missing[:self.most]]
        findings += [Finding(name, "row not from any event", k, "") for k in extra[:self.most]]
        for k in unequal[:self.most]:
            a, b = self.row(self.oracle, ours, key, k), self.row(self.warehouse, theirs, key, k)
            findings += [Finding(name, "value differs", k, n)
                         for (n, _), x, y in zip(self.columns, a, b) if x != y]
        for what, keys in (("rows missing", missing), ("rows not from any event", extra),
                           ("rows that differ", unequal)):
            if len(keys) > self.most:
                findings.append(Finding(name, f"{what} in all: {len(keys)}", "", ""))
        return findings

    def hashes(self, conn, source, key):
        """{key: hash of the row}; under None the keys that come twice."""
        texts = ", ".join(f"{quote(n)}::text" for n, _ in self.columns)
        shown = " || ',' || ".join(f"{k}::text" for k in key)
        found = {}
        with conn.cursor() as cur:
            with cur.copy(f"copy (select {shown}, md5(row({texts})::text) from {source} r) to stdout") as out:
                text = b"".join(bytes(block) for block in out).decode()
        for line in text.splitlines():
            k, _, h = line.partition("\t")
            if k in found:
                found.setdefault(None, []).append(k)
            found[k] = h
        return found

    def row(self, conn, source, key, value):
        texts = ", ".join(f"{quote(n)}::text" for n, _ in self.columns)
        where = " and ".join(f"{k}::text = %s" for k in key)
        return conn.execute(f"select {texts} from {source} r where {where}", value.split(",")).fetchone()


def judge(core, oracle, warehouse, schema="raw", rollups=None, latest=True):
    """Copies what is new and compares: (new events, findings)."""
    o = Oracle(oracle, rollups=rollups)
    try:
        return o.copy_events(core), o.compare(warehouse, schema, latest)
    finally:
        o.close()


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("core", "oracle", "warehouse"):
        p.add_argument("--" + name, required=True, metavar="CONNINFO")
    p.add_argument("--schema", default="raw")
    p.add_argument("--rollups", help="only these, with commas between")
    p.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    a = p.parse_args(argv)
    try:
        events, findings = judge(a.core, a.oracle, a.warehouse, a.schema, a.rollups and a.rollups.split(","))
    except psycopg.OperationalError as error:
        print(f"oracle: {error}".rstrip(), file=sys.stderr)
        return 2
    except psycopg.Error as error:      # its text may hold values
        print(f"oracle: PostgreSQL refused with SQLSTATE {error.sqlstate}", file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"oracle: no rules for rollup {error}", file=sys.stderr)
        return 2
    if a.json:
        print(json.dumps({"new_events": events, "equal": not findings, "findings": [f._asdict() for f in findings]}))
    else:
        for f in findings:
            print(" ".join(part for part in (f"{f.rollup}:", f.what, f.key, f.column) if part))
        print(f"{events} new events; " + (f"{len(findings)} findings" if findings else "equal"))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
