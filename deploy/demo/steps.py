"""The steps of a demo, each with its line on the screen."""
import os
import re
import time

import psycopg

import proof
from estate import DEFINITIONS, Failed, label

STORY_LINES = 30


class Ended(BaseException):
    """Told to stop by a signal."""


class Step:
    """with Step(screen, "what") as step: …; prints ✓ or ✗ and how long it took."""

    def __init__(self, screen, text):
        self.screen, self.text = screen, text

    def progress(self, more=""):
        self.screen.draw([f"  {self.screen.style('·', 'cyan')} {self.text} {self.screen.style(more, 'dim')}"])

    def __enter__(self):
        self.started = time.monotonic()
        self.progress()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.screen.done(self.text, time.monotonic() - self.started)
        elif kind is not Ended:
            self.screen.done(self.text, good=False)


def prepare(screen, estate, history, rate, reconnect=0, expect=0):
    """Up to a rolag that follows the stream, with the bank waiting to go on."""
    with Step(screen, "two PostgreSQL clusters, a core and a warehouse") as step:
        estate.start_clusters()
        version = estate.core.psql("show server_version").split()[0]
        step.text = f"two PostgreSQL {version} clusters, a bank's 33 event tables in the core"
    with Step(screen, "the bank's history") as step:
        estate.start_load(history, rate, reconnect, expect)
        estate.wait(lambda: estate.load.phase() == "live", "writing the history", 60)
        step.text = f"the bank's history: {estate.load.report['events']:,} events in the core"
    with Step(screen, "rolag init") as step:
        estate.init()
        step.text = "rolag init: publication and slot in the core, 33 rollups to land"
    with Step(screen, "first load") as step, \
            psycopg.connect(estate.warehouse.conninfo(), autocommit=True) as warehouse:
        estate.start_rolag()

        def tell():
            metrics = estate.status().get("metrics", {})
            step.progress(f"{metrics.get('apply_sync_rows_total', 0):,} events read")

        estate.wait(lambda: all_live(warehouse), "the first load", 60, tell)
        step.text = f"rolag run: first load, {sum(proof.rows_by_table(warehouse).values()):,} rows in 33 rollups"


def all_live(warehouse):
    """True when every rollup and every mirror follows the stream."""
    n, live, rollups = warehouse.execute("select count(*), count(*) filter (where state = 'live'), "
                                         "count(*) filter (where kind = 'rollup') from rolag.relation").fetchone()
    return n == live and rollups == len(os.listdir(DEFINITIONS))


def catch_up(estate, warehouse):
    """Waits until the warehouse has passed a fence written behind the last commit; how many seconds it took."""
    started, mark = time.monotonic(), estate.fence()
    estate.wait(lambda: estate.passed(mark, warehouse), "catching up", 60)
    return time.monotonic() - started


def tell_story(screen, estate, warehouse):
    facility = proof.rich_facility(warehouse)
    if facility is None:
        return
    code, out, err = estate.command("story", facility)
    if code:
        raise Failed(f"rolag story {facility}: exit code {code}\n{out}{err}".rstrip())
    lines = story_lines(out.rstrip().split("\n"), screen.width())
    screen.say()
    screen.say("  " + screen.style("One credit facility, as the warehouse knows it", "bold"))
    screen.say("  " + screen.style(f"rolag story {facility}", "dim"))
    screen.say()
    if len(lines) > STORY_LINES:
        head, tail = STORY_LINES * 2 // 3, STORY_LINES // 3
        lines[head:-tail] = [f"… {len(lines) - head - tail} more …"]
    for line in lines:
        screen.say(screen.cut("  " + line.rstrip()))


def story_lines(lines, width):
    """The story's table with short times and names, so that it fits; the LSN where there is room."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    if any(len(c) < 5 for c in cells):
        return lines
    short = width < 110
    rows = [(c[0][:16], label(c[1].removesuffix("_rollup"), short), c[2].replace("version", "v"), c[3], c[4])
            for c in cells]
    wide = [max(map(len, column)) for column in zip(*rows)]
    return [f"{when:<{wide[0]}}  {what:<{wide[1]}}  {version:>{wide[2]}}  {event:<{wide[3]}}"
            + ("" if short else f"  {lsn.replace('_lsn', 'LSN in the core')}") for when, what, version, event, lsn in rows]


def show_proof(screen, core, warehouse):
    """The table of both sides; True when they are equal everywhere."""
    lines = proof.compare(core, warehouse)
    ok, no = screen.style("✓", "green"), screen.style("✗", "red", "bold")
    screen.say()
    screen.say("  " + screen.style("The proof", "bold"))
    screen.say("  " + screen.style("Each side counts and hashes (id, version, event_type, modified_at) by itself:", "dim"))
    screen.say("  " + screen.style("events and entities in the core, rows and latest rows in the warehouse.", "dim"))
    screen.say()
    screen.say(screen.style(f"  {'':<24}{'events':>7}{'rows':>8}  {'hash':<6}{'entities':>10}{'latest':>8}  hash", "dim"))
    for t, core_side, side in lines:
        same = [a == b for a, b in zip(core_side, side)]
        good = all(same) and core_side.rows
        screen.say(f"  {label(t):<24}{core_side.rows:>7,}{side.rows:>8,}  {side.rows_hash[:6]:<6}"
                   f"{core_side.entities:>10,}{side.entities:>8,}  {side.entities_hash[:6]:<6}  {ok if good else no}")
        if not good:
            screen.say("  " + screen.style(f"{'':<24} differs: {what_differs(same, core_side)}", "red"))
    held = [line for line in lines if proof.holds(line)]
    total = [sum(getattr(side, key) for side in (line[n] for line in lines))
             for key in ("rows", "entities") for n in (1, 2)]
    verdict = f"{len(held)} of {len(lines)}"
    screen.say(screen.style(f"  {f'{len(lines)} rollups':<24}{total[0]:>7,}{total[1]:>8,}  {'':<6}{total[2]:>10,}"
                            f"{total[3]:>8,}{verdict:>11}", "bold"))
    screen.say()
    return len(held) == len(lines) and bool(lines), total[0]


def what_differs(same, core_side):
    if not core_side.rows:
        return "no events"
    return ", ".join(name for name, equal in zip(("rows", "hash", "latest", "hash of latest"), same) if not equal)


def explain(screen, estate, error):
    """The reason, and the end of the log that may say more."""
    screen.say()
    screen.say(f"  {screen.style('failed:', 'red', 'bold')} {error}")
    log = getattr(error, "log", None) or estate.log
    try:
        with open(log, encoding="utf-8", errors="replace") as lines:
            tail = lines.readlines()[-25:]
    except OSError:
        tail = []
    if tail:
        screen.say(f"\n  the end of {os.path.basename(log)}:")
        for line in tail:
            screen.say("    " + line.rstrip())
