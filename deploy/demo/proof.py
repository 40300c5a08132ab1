"""The proof: what the core holds, and what the warehouse holds, computed by each of them alone.

Per event table: the events are the rows of the rollup (a hash over id, version, event_type, modified_at of
all of them, in order), and the newest event of each entity is its row in the table of latest rows (likewise).
"""
from collections import namedtuple

# One side's figures of one table; `rows`, `entities`: how many; the hashes are over the sorted rows.
Side = namedtuple("Side", "rows rows_hash entities entities_hash")
Line = namedtuple("Line", "table core warehouse")

ROW = "id || ' ' || {v} || ' ' || event_type || ' ' || to_char({t} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
HASH = "coalesce(encode(sha256(convert_to(string_agg(" + ROW + ", E'\\n' order by id, {v}), 'UTF8')), 'hex'), '')"
COUNTED = "select count(*), " + HASH + " from {source}"
NEWEST = ("(select distinct on (id) id, sequence, event_type, recorded_at from {source}"
          " order by id, sequence desc) newest")


def event_tables(core):
    """The core's event tables, from its own catalog."""
    return [name for (name,) in core.execute(
        r"select relname from pg_class where relkind in ('r', 'p') and relname ~ '^core_.*_events$'"
        " and relnamespace = 'public'::regnamespace order by relname")]


def of_core(core, table):
    names = {"v": "sequence", "t": "recorded_at"}
    source = f'public."{table}"'
    rows = core.execute(COUNTED.format(source=source, **names)).fetchone()
    newest = core.execute(COUNTED.format(source=NEWEST.format(source=source), **names)).fetchone()
    return Side(*rows, *newest)


def of_warehouse(warehouse, table):
    names = {"v": "version", "t": "modified_at"}
    rollup = f"{table}_rollup"
    found = warehouse.execute("select count(*) from pg_tables where schemaname = 'raw' and tablename in (%s, %s)",
                              (rollup, rollup + "_latest")).fetchone()[0]
    if found != 2:
        return Side(0, "no table", 0, "no table")
    rows = warehouse.execute(COUNTED.format(source=f'raw."{rollup}"', **names)).fetchone()
    latest = warehouse.execute(COUNTED.format(source=f'raw."{rollup}_latest"', **names)).fetchone()
    return Side(*rows, *latest)


def compare(core, warehouse):
    """Every line, equal or not. Both connections must be past the same fence, and nobody writing."""
    return [Line(t, of_core(core, t), of_warehouse(warehouse, t)) for t in event_tables(core)]


def holds(line):
    return line.core == line.warehouse and line.core.rows > 0


def event_types(core):
    """How many (table, event type) the core holds."""
    union = " union all ".join(f'select count(distinct event_type) as n from public."{t}"' for t in event_tables(core))
    return core.execute(f"select sum(n)::int from ({union}) types").fetchone()[0]


def rows_by_table(warehouse):
    """{event table: rows of its rollup}, of the rollups that are there."""
    names = [name for (name,) in warehouse.execute(
        r"select tablename from pg_tables where schemaname = 'raw' and tablename ~ '_events_rollup$'")]
    if not names:
        return {}
    union = " union all ".join(f"select '{n}', count(*) from raw.\"{n}\"" for n in names)
    return {name.removesuffix("_rollup"): count for name, count in warehouse.execute(union)}


def rich_facility(warehouse):
    """The id of a credit facility that much has happened to, some of it live, in not too many events."""
    row = warehouse.execute(
        "select id from raw.core_credit_facility_events_rollup group by id order by"
        " least(count(distinct _lsn), 8) desc, count(distinct event_type) - count(*) / 20.0 desc, bool_or(event_type = 'completed') desc,"
        " id limit 1").fetchone()
    return str(row[0]) if row else None
