"""What tests of mirrors share: pipelines with tables of their own, and the comparison row by row."""
import psycopg


def make_mirrors(make_pipeline, sql, tables, append_only=(), settings=None, start=True, **more):
    """A pipeline whose core has the tables that sql makes; initialised, and running unless told otherwise."""
    p = make_pipeline({"mirrors": {"tables": list(tables), "append_only": list(append_only)}, **(settings or {})},
                      **more)
    p.core_cluster.psql(sql, database=p.core_database)
    p.init()
    return p.start() if start else p


def columns(conninfo, table):
    """Names of a table's columns that hold values of their own, in order."""
    with psycopg.connect(conninfo) as conn:
        return [n for (n,) in conn.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped "
            "and attgenerated = '' order by attname", (table,))]


def rows(conninfo, table, names):
    """All rows as text, sorted: {text of the row: how often}."""
    listed = ", ".join(f'"{n}"::text' for n in names) or "null"
    with psycopg.connect(conninfo) as conn:
        conn.execute("set timezone = 'UTC'; set extra_float_digits = 1")
        found = {}
        for row in conn.execute(f"select {listed} from {table}"):
            found[row] = found.get(row, 0) + 1
        return found


def difference(p, table):
    """'' where raw.<table> is what the core's table is; else what differs."""
    source = table if "." in table else "public." + table
    target = "raw." + source.split(".", 1)[1]
    names = columns(p.core_conninfo, source)
    held = columns(p.warehouse_conninfo, target)
    if held != sorted([*names, "_lsn"]):
        return f"{table}: columns {names} became {held}"
    there, here = rows(p.core_conninfo, source, names), rows(p.warehouse_conninfo, target, names)
    if there == here:
        return ""
    missing = [r for r in there if there[r] != here.get(r)]
    extra = [r for r in here if here[r] != there.get(r)]
    return f"{table} {names}: the core has {str(missing)[:1500]}, the warehouse {str(extra)[:1500]}"


def assert_mirrors(p, tables):
    """Every table, once all of it is applied."""
    p.wait_applied()
    for table in tables:
        assert difference(p, table) == ""
