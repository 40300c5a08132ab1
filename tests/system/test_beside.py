"""README, "Beside an existing core, step by step", followed to the letter.

The page's blocks run in their order, unchanged, as the roles that their first lines name, on fresh servers: a core
that has lived for long (events, triggers that fold them, plain tables with their oddities, wal_level = replica, a
standby), and an empty warehouse. What each step must have done is looked at by other means than rolag's.
"""
import os
import re
import subprocess
from types import SimpleNamespace

import psycopg
import pytest
from cluster import Cluster
from mirrors import difference
from pipeline import CORE_SQL, TIMEOUT, Bank, Writing, oracle, trigger_sql, wait_for
from program import ROLAG
from readme import blocks, free_port
from shell import Shell
from standby import make_standby

HEADING = "## Beside an existing core, step by step"
LANDED = [f"core_{n}_events_rollup" for n in ("customer", "deposit", "withdrawal", "credit_facility", "disbursal")]
FOLDED = LANDED[:4]     # of the fifth the core has no rollup table
MIRRORED = ["core_public_ids", "inbox_events", "cala_account_set_member_accounts", "cala_balance_history"]
ROLE, DISK = "core, as a superuser", "rolag's machine, as rolag"
PASSWORD = "not a good one"

# Plain tables as Lana has them, and what years do to them: columns dropped and added, an enum extended.
OLD_TABLES = """
-- These have a past here: columns that went and came, an enum that grew, no replica identity.
drop table inbox_events, cala_account_set_member_accounts, cala_balance_history;
drop type inboxeventstatus;
create type inboxeventstatus as enum ('pending', 'completed', 'failed');
alter type inboxeventstatus add value 'processing' after 'pending';
create table inbox_events (id uuid primary key default gen_random_uuid(), old_key int, idempotency_key varchar unique,
    payload jsonb not null, status inboxeventstatus not null default 'pending', error varchar,
    recorded_at timestamptz not null default now());
insert into inbox_events (idempotency_key, payload, status) select n, jsonb_build_object('n', n),
    (enum_range(null::inboxeventstatus))[1 + n % 4] from generate_series(1, 3000) n;
alter table inbox_events drop column old_key;
alter table inbox_events add column processed_at timestamptz;
update inbox_events set processed_at = now() where status = 'completed';
create table cala_account_set_member_accounts (account_set_id uuid not null, member_account_id uuid not null,
    transitive boolean not null default false, created_at timestamptz not null default now(),
    unique (account_set_id, member_account_id));
insert into cala_account_set_member_accounts select gen_random_uuid(), gen_random_uuid(), n % 2 = 0
    from generate_series(1, 2000) n;
delete from cala_account_set_member_accounts where random() < 0.2;
create table cala_balance_history (journal_id uuid not null, account_id uuid not null, latest_entry_id uuid not null,
    currency varchar not null, version int not null, values jsonb not null, recorded_at timestamptz not null default now(),
    unique (account_id, journal_id, currency, version));
insert into cala_balance_history select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'USD', n, '{"v": 1}'
    from generate_series(1, 4000) n;
"""
CHANGES = """
update inbox_events set status = 'completed', processed_at = now() where status = 'processing';
insert into inbox_events (payload) values ('{"late": true}');
delete from cala_account_set_member_accounts where member_account_id::text < '2';
insert into cala_balance_history select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'BTC', 1, '{}';
"""


class Estate:
    """Servers, databases and roles as an operator finds them."""

    def __init__(self, folder):
        self.folder, self.clusters, self.shell = folder, [], None
        settings = {"listen_addresses": "127.0.0.1", "ssl": "on", "fsync": "off"}
        self.core = self.server("core", {**settings, "wal_level": "replica", "max_slot_wal_keep_size": "-1",
                                         "max_replication_slots": 1, "max_wal_senders": 3}, "lana")
        self.warehouse = self.server("warehouse", {**settings, "wal_level": "replica"}, "warehouse")
        self.warehouse.psql("create database judge", database="postgres")
        self.live()
        self.standby = make_standby(self.core, free_port())
        self.clusters.append(self.standby)
        self.certify(self.standby)
        self.standby.start()
        home = os.path.join(folder, "home")
        os.makedirs(home)
        with open(os.path.join(home, ".pgpass"), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(f"*:*:*:rolag:{PASSWORD}\n")
        ports = f"{self.core.port},{self.standby.port}"
        prefix = os.path.join(folder, "prefix")
        self.names = {
            "CORE": f"host=127.0.0.1,127.0.0.1 port={ports} dbname=lana sslmode=require target_session_attrs=primary",
            "WAREHOUSE": f"host=127.0.0.1 port={self.warehouse.port} dbname=warehouse sslmode=require",
            "ROLAG_ADDRESS": "127.0.0.1/32", "ROLAG_CONFIG": os.path.join(folder, "etc", "rolag.yaml"),
            "ROLAG_STATE": os.path.join(folder, "state"), "ROLAG_USER": str(os.geteuid()), "PREFIX": prefix}
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "MAKE", "MFLAGS", "ROLAG"))}
        self.env = {**ours, **self.names, "HOME": home, "PATH": f"{prefix}/bin:{self.core.bin}:{ours['PATH']}",
                    "MODE": os.path.basename(os.path.dirname(os.path.abspath(ROLAG)))}
        self.shell = Shell(folder, self.env)
        self.p = SimpleNamespace(core_conninfo=self.core.conninfo("lana"),
                                 warehouse_conninfo=self.warehouse.conninfo("warehouse"))

    def server(self, name, settings, database):
        """Superusers come in from everywhere, the application by its password, nobody else over the network."""
        cluster = Cluster(name, free_port(), settings={k: v for k, v in settings.items() if k != "ssl"}, database="postgres")
        self.clusters.append(cluster)
        cluster.create()
        self.certify(cluster)
        with open(os.path.join(cluster.data, "pg_hba.conf"), "w", encoding="utf-8") as f:
            f.write("local all all trust\nlocal replication all trust\nhostssl all postgres 127.0.0.1/32 trust\n"
                    "host all lana 127.0.0.1/32 scram-sha-256\n")
        cluster.configure({"ssl": "on"})
        cluster.restart()
        for sql in ("create role lana login", f"create database {database} owner lana"):
            cluster.psql(sql, database="postgres")
        return cluster

    def certify(self, cluster):
        """Its own certificate."""
        cluster._run_command(["openssl", "req", "-new", "-x509", "-days", "9", "-nodes", "-subj", "/CN=bank", "-out",
                              os.path.join(cluster.data, "server.crt"), "-keyout",
                              os.path.join(cluster.data, "server.key")])

    def live(self):
        """The core's past."""
        self.core.psql(file=CORE_SQL, database="lana", user="lana")
        path = os.path.join(self.folder, "old.sql")
        with open(path, "w", encoding="utf-8") as f:
            f.write(OLD_TABLES)
        self.core.psql(file=path, database="lana", user="lana")
        for name in FOLDED:
            self.core.psql(trigger_sql(name), database="lana", user="lana")
        self.bank = Bank(self.core.conninfo("lana", user="lana"), seed=61)
        self.bank.bulk(12_000)
        self.core.psql("vacuum analyze", database="lana")

    # who runs what ----------------------------------------------------------------------------
    def psql(self, cluster, text, user):
        """As typed into psql; what it asks for is the password. (exit code, what it printed)"""
        path = os.path.join(self.folder, "block.sql")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        done = subprocess.run([cluster.bin + "/psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", path,
                               cluster.conninfo("lana" if cluster is not self.warehouse else "warehouse", user)],
                              input=f"{PASSWORD}\n{PASSWORD}\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=self.env, start_new_session=True, timeout=TIMEOUT, check=False)
        return done.returncode, done.stdout

    def at_server(self, cluster, text):
        env = {**self.env, "PGDATA": cluster.data, "PGHOST": cluster.socket, "PGPORT": str(cluster.port),
               "PGUSER": "postgres", "PGDATABASE": "warehouse" if cluster is self.warehouse else "lana"}
        done = subprocess.run(["bash", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
                              timeout=TIMEOUT, check=False)
        return done.returncode, done.stdout

    # looking ----------------------------------------------------------------------------------
    def in_core(self, sql):
        return self.query(self.p.core_conninfo, sql)

    def in_warehouse(self, sql):
        return self.query(self.p.warehouse_conninfo, sql)

    @staticmethod
    def query(conninfo, sql):
        with psycopg.connect(conninfo, autocommit=True) as conn:
            return conn.execute(sql).fetchall()

    def caught_up(self):
        """The warehouse has all that the core has committed."""
        mark = self.in_core("select pg_logical_emit_message(true, 'test.mark', '')")[0][0]
        wait_for("the ledger to pass the core's last commit", lambda: self.in_warehouse(
            f"select coalesce(max(applied_lsn), '0/0') >= '{mark}' from rolag.ledger") == [(True,)])

    def assert_true(self):
        """Warehouse against core, by others' means: the oracle's triggers, and row by row."""
        self.caught_up()
        judge = oracle.Oracle(self.warehouse.conninfo("judge"), None, LANDED)
        try:
            judge.copy_events(self.p.core_conninfo)
            assert judge.compare(self.p.warehouse_conninfo) == []
        finally:
            judge.close()
        assert [difference(self.p, table) for table in MIRRORED] == [""] * len(MIRRORED)

    def close(self):
        if self.shell is not None:
            self.shell.close()
        for cluster in self.clusters:
            cluster.destroy()


@pytest.fixture
def estate(tmp_path_factory):
    made = Estate(str(tmp_path_factory.mktemp("beside")))
    yield made
    made.close()


def test_the_page_beside_an_existing_core_is_true(estate):
    page = iter(blocks(HEADING))
    said = []

    def step(who, expect=0):
        """Runs the next block, which must be theirs; what it printed."""
        language, head, text = next(page)
        assert head.startswith(who), f"the next block is of {head}, not of {who}"
        if language == "sql":
            cluster = estate.core if head.startswith("core") else estate.warehouse
            code, out = estate.psql(cluster, text, "lana" if "owner" in head else "postgres")
        else:
            code, out = estate.shell.run(text)
        said.append(out)
        assert code == expect, f"{head}:\n{text}\nexit code {code}:\n{out}\n{log(estate)}"
        return out

    # the names
    language, head, text = next(page)
    assert (language, head[:9]) == ("sh", "everybody")
    assert set(re.findall(r"\b([A-Z_]+)=", text)) == set(estate.names)

    # 1. a role on each side
    step("core, as a superuser")
    assert estate.in_core("select rolreplication, rolsuper, rolcreatedb, rolcreaterole from pg_roles where rolname = 'rolag'"
                          ) == [(True, False, False, False)]
    step("warehouse, as a superuser")
    _, head, text = next(page)
    assert head.startswith("each server")
    for cluster in (estate.core, estate.standby, estate.warehouse):
        code, out = estate.at_server(cluster, text)
        assert code == 0, out

    # 2. look first
    def traces():
        return [estate.in_core(sql) for sql in (
            "select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_all_tables where relname = 'pg_publication'",
            "select slot_name from pg_replication_slots", "select count(*) from pg_class")]
    before = traces()
    step("rolag's machine, in a checkout")
    out = step(DISK, expect=1)
    for words in ("FAIL  core: wal_level = replica", "max_slot_wal_keep_size = -1", "GRANT SELECT ON", "rolag init"):
        assert words in out, out
    assert traces() == before and estate.in_warehouse("select count(*) from pg_class c join pg_namespace n on n.oid = "
                                                      "relnamespace where nspname in ('rolag', 'raw')") == [(0,)]

    # 3. settings
    _, head, text = next(page)
    assert head.startswith("core's standbys, then core")
    for cluster in (estate.standby, estate.core):
        code, out = estate.psql(cluster, text, "postgres")
        assert code == 0, out
        cluster.restart()
    assert estate.in_core("show wal_level") == [("logical",)]

    # 4. what shall land
    out = step("core, as the owner")
    told = {line.split("|")[0].strip(): [cell.strip() for cell in line.split("|")] for line in out.splitlines() if "|" in line}
    assert told["core_public_ids"][4] == told["inbox_events"][4] == "primary key"
    assert told["cala_balance_history"][4] == "nothing"
    assert told["cala_account_set_member_accounts"][4:] == [
        "nothing", "cala_account_set_member_accou_account_set_id_member_account_key"], out
    step("core, as the owner")
    step(DISK)
    step("the DBAs")
    assert estate.in_core("select pubname::text, count(*) from pg_publication_tables group by 1 order by 1") == [
        ("lana_changes", 3), ("lana_inserts", 6)]
    assert estate.in_core("select count(*) from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace and "
                          "has_table_privilege('rolag', c.oid, 'select')") == [(9,)], "what lands, and nothing else"
    assert estate.in_core("select count(*) from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace and "
                          "has_table_privilege('rolag', c.oid, 'insert, update, delete, truncate, references, trigger')"
                          ) == [(0,)]

    with Writing(estate.bank, rate=40):
        # 5. do they fit
        out = step(DISK)
        assert "FAIL" not in out and "created slot rolag_lana" in out, out

        # 6. run
        out = step(DISK)
        assert "Healthy" in out and "FAIL" not in out and "warn" not in out, out
        assert estate.in_warehouse("select distinct state from rolag.relation") == [("live",)]
        estate.core.psql(CHANGES, database="lana", user="lana")

        # 7. proof
        out = step(DISK)
        assert "Equal:" in out, out

        # 8. against the triggers
        step("core, as the owner")
        out = step(DISK)
        assert "Equal: 4 tables" in out and "core_disbursal_events_rollup  the core has no table of this name" in out, out

        # 9. off with them
        wait_for("the triggers to be off", lambda: estate_step_off(step))
        assert estate.in_core("select tgenabled::text, count(*) from pg_trigger where not tgisinternal group by 1") == [
            ("D", len(FOLDED))]
        old = estate.in_core(f"select count(*) from {FOLDED[2]}")
        new = estate.in_warehouse(f"select count(*) from raw.{FOLDED[2]}")
        wait_for("new rows in the warehouse", lambda: estate.in_warehouse(f"select count(*) from raw.{FOLDED[2]}") > new)
        assert estate.in_core(f"select count(*) from {FOLDED[2]}") == old
    estate.assert_true()

    # 10. the core fails over, to a standby that was behind
    fail_over(estate)
    out = step(DISK)
    assert "Healthy" in out and "Equal:" in out, out
    estate.assert_true()

    # 11. out again
    step(DISK)
    step("core, as a superuser")
    assert estate.in_core("select slot_name from pg_replication_slots") == []
    assert estate.in_core("select from pg_roles where rolname = 'rolag'") == []
    assert next(page, None) is None, "a step that nothing looks at"
    assert PASSWORD not in "".join(said) + log(estate)


def estate_step_off(step):
    step("core, as the owner")
    return True


AGAIN = """insert into {table} select id, sequence + 1, event_type, event, context, now() from {table} e
    where sequence = (select max(sequence) from {table} where id = e.id) order by id limit {count}"""


def fail_over(estate):
    """The standby lacks the newest transactions, which the warehouse has; the new core's have the same numbers."""
    target = estate.in_core("select pg_current_wal_lsn()::text")[0][0]
    conninfo = estate.standby.conninfo("lana")
    wait_for("the standby", lambda: estate.query(conninfo, f"select pg_last_wal_replay_lsn() >= '{target}'") == [(True,)])
    estate.standby.stop()
    estate.core.psql(AGAIN.format(table="core_customer_events", count=9) + "; delete from inbox_events where id::text < '3'",
                     database="lana", user="lana")
    estate.caught_up()
    estate.core.kill9()
    estate.standby.start()
    estate.standby.psql("select pg_promote()", database="postgres")
    estate.p.core_conninfo = conninfo
    estate.core = estate.standby
    estate.core.psql(AGAIN.format(table="core_customer_events", count=4) + ";" + CHANGES, database="lana", user="lana")


def log(estate):
    path = os.path.join(estate.folder, "state", "rolag.log")
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as f:
        return "".join(f.readlines()[-60:])
