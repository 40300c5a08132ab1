"""rolag verify: differences are found by key and column while the stream goes on, and only true ones."""
import json

import pytest
from pipeline import ROLE, SOME, Bank, entity, write_role

FINDING = 1


def verify(p, *arguments):
    """(exit code, the JSON object)."""
    code, out, err = p.run("verify", *arguments, "--json")
    assert out, err
    return code, json.loads(out)


def test_verify_full_finds_an_altered_row_by_key_and_column(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        for n in range(1, 4):
            for sequence in (1, 2, 3):
                write_role(conn, n, sequence)
    p.wait_applied()
    code, out, err = p.run("verify", ROLE, "--full")
    assert (code, err) == (0, ""), out + err
    assert out.startswith("Equal: 1 tables, 9 rows of the core, 9 of the warehouse, 3 latest ones"), out
    p.warehouse(f"update raw.{ROLE} set name = 'forged' where id = %s and version = 2", entity(2))
    code, out, err = p.run("verify", ROLE, "--full")
    assert (code, err) == (FINDING, ""), out + err
    first, last = out.splitlines()
    assert first.split() == ["differs", ROLE, "id", entity(2), "version", "2", "column", "name"]
    assert last.startswith("1 differences of 1 entities"), out
    assert "forged" not in out and "role 2" not in out, "values are never told"
    p.stop()
