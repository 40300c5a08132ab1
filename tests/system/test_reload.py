"""SIGHUP to each role with every kind of wrong file, and with right ones, while events flow and a report is made.

The old configuration stays, one clear line says why and where, no session is begun anew, nothing is lost."""
import json
import os
import shutil
import signal
import tempfile
import threading

import psycopg
import pytest
from companion import BUILD
from pipeline import PACK, ROLE, wait_for, write_role
from web import Web

ROLES = ("capture", "apply", "reports")


class Reloaded(Web):
    """One with a pack of its own, and somebody who writes all the time."""

    written = 0

    def begin(self):
        self.write_build("select pg_sleep(case when exists (select from pg_stat_activity where application_name = 'slow') then 3 else 0 end);\n"
                         + BUILD)
        self.done = threading.Event()
        self.writer = threading.Thread(target=self.go_on, daemon=True)
        self.writer.start()

    def go_on(self):
        with self.writing() as conn:
            while not self.done.is_set():
                with conn.transaction():
                    self.written += 1
                    write_role(conn, self.written, 1)
                self.done.wait(0.01)

    def sessions(self):
        """What begins anew when a role does: its process, its sessions, its epochs."""
        return ([getattr(self, role).pid for role in ROLES], self.core("select pid from pg_stat_replication"),
                self.warehouse("select epoch, backend_pid from rolag.fence"), self.warehouse("select epoch, pid from rolag.report_companion"))

    def hup(self, role, *words):
        """SIGHUP; the new line with these words."""
        process = getattr(self, role)
        before = len(process.lines(*words))
        process.signal(signal.SIGHUP)
        return wait_for(f"{role} to say {words}", lambda: process.lines(*words)[before:])[0]

    def is_flowing(self):
        """What is written after this call arrives."""
        target = self.written + 1
        wait_for("somebody to write", lambda: self.written > target)
        wait_for("it to arrive", lambda: self.check_alive() or self.rows() >= target)


@pytest.fixture(scope="module")
def reloaded(core_cluster, warehouse_cluster):
    folder = tempfile.mkdtemp(prefix="rolag-reload-")
    pack = os.path.join(folder, "pack")
    os.mkdir(pack)
    shutil.copy(os.path.join(PACK, ROLE + ".yaml"), pack)
    p = Reloaded("reload", folder, core_cluster, warehouse_cluster, warehouse_cluster, {}, pack=pack, land=[ROLE])
    try:
        p.create()
        p.prepare()
        p.prepare_web()
        p.begin()
        p.start()
        yield p
        p.done.set()
        p.writer.join()
        p.wait_applied()
        assert p.rows() == p.written
    finally:
        p.done.set()
        p.release()


def spoil(p, how):
    """Makes the file wrong; the words that the log must have of it."""
    good = json.dumps(p.settings, indent=1)
    path = p.config
    if how == "vanished":
        os.unlink(path)
        return [path, "No such file"]
    if how == "unreadable":
        # Nobody reads it, root neither.
        os.unlink(path)
        os.symlink(path, path)
        return [path, "symbolic links"]
    if how == "a folder":
        os.unlink(path)
        os.mkdir(path)
        return [path]
    text, words = {
        "no yaml": (good[:-3], [path + ":"]),
        "empty": ("", [path + ":1:1: ", "empty"]),
        "unknown key": (good.replace('"heartbeat_interval"', '"heartbeat_intervall"'), [path + ":", "heartbeat_interval"]),
        "out of range": (good.replace('"200 ms"', '"2 h"'), [path + ":", "capture.heartbeat_interval"]),
        "another type": (good.replace('"200 ms"', '["200 ms"]'), [path + ":", "capture.heartbeat_interval"]),
        "no bytes of text": (good.replace("200 ms", "200 ms\x00\x01"), [path]),
    }[how]
    p.write("rolag.yaml", text)
    return words


@pytest.mark.parametrize("how", ["vanished", "unreadable", "a folder", "no yaml", "empty", "unknown key", "out of range", "another type",
                                 "no bytes of text"])
def test_a_wrong_file_changes_nothing(reloaded, how):
    p = reloaded
    before = p.sessions()
    words = spoil(p, how)
    try:
        for role in ROLES:
            line = p.hup(role, "error", "the old one stays")
            assert all(w in line for w in words), line
    finally:
        if os.path.isdir(p.config) and not os.path.islink(p.config):
            os.rmdir(p.config)
        elif os.path.lexists(p.config):
            os.unlink(p.config)
        p.configure({})
    for role in ROLES:
        p.hup(role, "configuration read again")
        assert not p.__dict__[role].lines("only a start reads"), "it is what it was"
    p.is_flowing()
    assert p.sessions() == before


def test_definitions_that_are_wrong_are_not_looked_at_before_a_start(reloaded):
    p = reloaded
    before = p.sessions()
    path = os.path.join(p.pack, ROLE + ".yaml")
    with open(path, encoding="utf-8") as f:
        good = f.read()
    try:
        with open(path, "w", encoding="utf-8") as f:
            f.write("nonsense: [")
        for role in ROLES:
            p.hup(role, "configuration read again")
        p.is_flowing()
        os.rename(p.pack, p.pack + "-away")
        p.configure({"rollups": {"path": os.path.join(p.folder, "nowhere")}})
        for role in ROLES:
            line = p.hup(role, "warn", "only a start reads")
            assert 'keys="rollups.path"' in line and f"start {role} again" in line
        p.is_flowing()
        code, out, err = p.run("check")
        assert code == 1 and "nowhere" in out + err, "check says so before somebody starts it again"
    finally:
        if os.path.isdir(p.pack + "-away"):
            os.rename(p.pack + "-away", p.pack)
        with open(path, "w", encoding="utf-8") as f:
            f.write(good)
        p.configure({"rollups": {"path": p.pack}})
    assert p.sessions() == before


def test_a_right_file_takes_effect_and_names_what_waits_for_a_start(reloaded):
    p = reloaded
    before = p.sessions()
    p.configure({"log": {"level": "error", "format": "json"}, "apply": {"batch_rows": 7}, "http": {"failures": 3}, "reports": {"retries": 9}})
    for role in ROLES:
        process = p.__dict__[role]
        process.signal(signal.SIGHUP)
        process.signal(signal.SIGUSR2)      # its status is of level info: not said any more
    p.is_flowing()
    said = {role: len(p.__dict__[role].text()) for role in ROLES}
    for role in ROLES:
        p.__dict__[role].signal(signal.SIGUSR2)
    p.is_flowing()
    assert {role: len(p.__dict__[role].text()) for role in ROLES} == said
    p.configure({"log": {"level": "info", "format": "json"}})
    for role in ROLES:
        line = p.hup(role, "only a start reads")
        said = json.loads(line)
        assert "keys=\"apply.batch_rows reports.retries http.failures\"" in said["fields"], line
    p.configure({"log": {"format": "text"}, "apply": {"batch_rows": 20000}, "http": {"failures": 30}, "reports": {"retries": 3}})
    for role in ROLES:
        p.hup(role, "info", "configuration read again file=")
    assert p.sessions() == before
    p.is_flowing()


def test_a_run_that_is_made_meanwhile_is_made_to_its_end(reloaded):
    p = reloaded
    before = p.sessions()
    with psycopg.connect(p.warehouse_conninfo, application_name="slow"):
        run = p.ask("--report", "nrp_1/01_roles")
        wait_for("it to be built", lambda: p.state(run) == "building")
        p.write("rolag.yaml", "nonsense: [")
        p.hup("reports", "error", "the old one stays")
        p.configure({})
        # Tokens: a line that is none, a file that is away, one that others may write; the old ones are heard.
        for spoiled in (lambda: p.write("tokens", "nobody reports:read short\n"), lambda: os.unlink(p.tokens_path),
                        lambda: os.mkdir(p.tokens_path)):
            spoiled()
            line = p.hup("reports", "error", "the new tokens are not valid: the old ones stay")
            assert p.tokens_path in line and p.get("/api/v1/reports").status == 200
        os.rmdir(p.tokens_path)
        p.make_token("third", "reports:read")
        p.write_tokens()
        p.hup("reports", "tokens read again", "tokens=3")
        assert p.get("/api/v1/reports", "third").status == 200
        assert p.state(run) == "building", "all that happened while it was made"
    p.wait_ended(run)
    p.check_whole(run)
    assert p.sessions() == before
