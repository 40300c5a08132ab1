"""Mirrors: plain tables of the core, row by row equal in the warehouse, whatever their types and changes."""
import pytest
from mirrors import assert_mirrors, make_mirrors
from pipeline import SOME


@pytest.fixture
def mirrored(make_pipeline):
    """mirrored(sql, tables, …): a pipeline whose core has these tables, mirrored, live."""
    def make(sql, tables, append_only=(), settings=None, **more):
        return make_mirrors(make_pipeline, sql, tables, append_only, settings, land=SOME[:1], **more)
    return make


def test_rows_are_inserted_updated_and_deleted(mirrored):
    p = mirrored("create table account (id int primary key, name text not null, balance numeric); "
                 "insert into account select n, 'n' || n, n from generate_series(1, 5) n", ["account"])
    assert_mirrors(p, ["account"])
    p.core("insert into account values (6, 'six', 6.50)")
    p.core("update account set balance = 7.00, name = '' where id = 2")
    p.core("delete from account where id = 3")
    p.core("update account set id = 30 where id = 1")
    assert_mirrors(p, ["account"])
    assert p.warehouse("select count(*) from raw.account") == [(5,)]
    p.stop()
