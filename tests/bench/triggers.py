"""Rollup definitions as PL/pgSQL triggers: what a user of a plain subscription would fold with.

    triggers.py DEFINITION.yaml …      prints the DDL

Made for speed: the row before is read by primary key once, only the columns that an event touches are
assigned, and every name is qualified, so that the functions work (and their plans are kept) in an apply
worker, whose search_path is empty. They write the history rows; no latest rows.
"""
import sys

import yaml

FIXED = ("id", "version", "created_at", "modified_at", "event_type")
SCHEMA = "folded"


class Untranslated(Exception):
    """A definition uses what this generator does not know."""


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def pairs(given, name):
    """A reducer's argument as [(path, event types)]."""
    return [(name, given)] if isinstance(given, list) else list(given.items())


def value(path, type_):
    """The payload's value at a key as the column's type."""
    if path.startswith("$") or "." in path:
        raise Untranslated(f"path {path}")
    return f"new.event -> {literal(path)}" if type_ == "jsonb" else f"(new.event ->> {literal(path)})::{type_}"


def array(path, type_):
    return (f"array(select e::{type_[:-2]} from jsonb_array_elements_text(new.event -> {literal(path)}) "
            "with ordinality as x(e, n) order by n)")


class Column:
    """One column: its type, what it starts as, and what event types do to it."""

    def __init__(self, name, given, events):
        given = {"type": given} if isinstance(given, str) else given
        self.name, self.type = name, given.get("type", "bool" if "flag" in given else "int8")
        self.start, self.does = "null", []      # does: [(event type, expression)]
        known = {"type", "description", "set", "flag", "list", "clear"}
        if set(given) - known:
            raise Untranslated(f"column {name}: {', '.join(sorted(set(given) - known))}")
        self.add_set(given.get("set"))
        self.add_flag(given.get("flag"))
        self.add_list(given.get("list"))
        self.does += [(event, "null") for event in given.get("clear", [])]
        if not set(given) & {"set", "flag", "list"}:
            self.add_carry(events)

    def add_set(self, given):
        for path, types in pairs(given or {}, self.name):
            self.does += [(event, value(path, self.type)) for event in types]

    def add_carry(self, events):
        for event, keys in events.items():
            if self.name in [k.rstrip("?") for k in keys]:
                self.does.append((event, f"case when new.event ? {literal(self.name)} then "
                                         f"{value(self.name, self.type)} else cur.{quote(self.name)} end"))

    def add_flag(self, given):
        if given is not None:
            self.start = "false"
            self.does += [(event, "true") for event in given.get("raise", [])]
            self.does += [(event, "false") for event in given.get("lower", [])]

    def add_list(self, given):
        if given is None:
            return
        if set(given) - {"init", "add", "remove"}:
            raise Untranslated(f"column {self.name}: {', '.join(given)}")
        self.start = f"'{{}}'::{self.type}"
        field = f"cur.{quote(self.name)}"
        for path, types in pairs(given.get("init", {}), self.name):
            self.does += [(event, array(path, self.type)) for event in types]
        for verb, function in (("add", "array_append"), ("remove", "array_remove")):
            for path, types in pairs(given.get(verb, {}), self.name):
                self.does += [(event, f"{function}({field}, {value(path, self.type[:-2])})") for event in types]


def function_body(name, events, columns):
    table = f"{SCHEMA}.{quote(name)}"
    cases = []
    for event in events:
        does = [f"cur.{quote(c.name)} := {what};" for c in columns for type_, what in c.does if type_ == event]
        cases.append(f"when {literal(event)} then {' '.join(does) or 'null;'}")
    starts = [f"cur.{quote(c.name)} := {c.start};" for c in columns if c.start != "null"]
    return "\n".join([
        f"declare cur {table}%rowtype;", "begin",
        "if new.sequence > 1 then",
        f"select * into cur from {table} where id = new.id and version = new.sequence - 1;",
        "if not found then raise exception 'gap before sequence %', new.sequence; end if;",
        "else", "cur.id := new.id; cur.created_at := new.recorded_at;", *starts, "end if;",
        "cur.version := new.sequence; cur.event_type := new.event_type; cur.modified_at := new.recorded_at;",
        "case new.event_type", *cases, "end case;",
        f"insert into {table} values (cur.*);", "return null;", "end"])


def ddl(definition):
    """Table, function and trigger of one definition (a dict, as read from its YAML)."""
    name, events = definition["rollup"], definition["events"]
    columns = [Column(n, c, events) for n, c in definition["columns"].items()]
    source = ".".join(quote(part) for part in definition["source"].split("."))
    function = f"{SCHEMA}.{quote('fold_' + name)}"
    fixed = "id uuid, version int4, created_at timestamptz, modified_at timestamptz, event_type text, "
    return (f"create table {SCHEMA}.{quote(name)} ({fixed}"
            f"{''.join(f'{quote(c.name)} {c.type}, ' for c in columns)}primary key (id, version));\n"
            f"create function {function}() returns trigger language plpgsql as\n"
            f"$fold$ {function_body(name, events, columns)} $fold$;\n"
            f"create trigger fold after insert on {source} for each row execute function {function}();\n"
            f"alter table {source} enable always trigger fold;\n")


def all_ddl(paths):
    parts = [f"create schema {SCHEMA};\n"]
    for path in paths:
        with open(path, encoding="utf-8") as f:
            parts.append(ddl(yaml.safe_load(f)))
    return "".join(parts)


if __name__ == "__main__":
    print(all_ddl(sys.argv[1:]), end="")
