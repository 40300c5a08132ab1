#!/usr/bin/python3
"""Bugs that others shipped, each with the tests of ours that are named for it (test_trap_NN_…): tests/TRAPS.md.

Without arguments: fails where that file is stale, a trap has no test, a test names a trap that is not in the list
below, or a C test is not in its program's table. --write makes the file (`make traps`).
"""
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

PAGE = Path("tests/TRAPS.md")
HEAD = """# Traps, and their tests

Bugs that well-known systems shipped, or that experiments with PostgreSQL showed. Each has tests that are named for it.
Written by `make traps`; `make lint` fails when it is stale. Numbers stay; those that are missing belong to parts of
rolag that are not there yet.
"""
TRAPS = {
    1: "resuming inside a transaction; comparing LSNs of BEGIN or of rows instead of the commit's end",
    2: "a keepalive confirms what is not durable; an idle core pins WAL",
    3: "confirmed before fsync returned 0; fsync tried again after it failed",
    4: "a slot made anew, another core, a replaced spool, taken for the old one",
    5: "the outcome of COMMIT unknown",
    6: "a zombie that writes beside its successor",
    7: "a failing statement left out, so that the rest can go on",
    8: "a value that does not fit becomes NULL",
    9: "one poison row stops everything, or takes its transaction with it",
    10: "an unknown message wedges the slot",
    11: "a step says that it is done, and nothing is there",
    12: "one statement meets a key twice; secondary unique keys",
    13: "a second RELATION is ignored; a row read by the catalog of now",
    14: "readers that go on behind an underflow; lengths that overflow; bytes left over",
    15: "TRUNCATE of several tables keeps the first; its flags",
    16: "unchanged TOAST taken for NULL or for empty",
    17: "aborted subtransactions applied all the same",
    18: "a transaction cut by a reconnect kept twice",
    19: "generated and dropped columns, partition roots",
    20: "an enum extended; type OIDs that are another's",
    21: "publishing updates of a table without replica identity: the core's own UPDATE fails",
    22: "making a slot waits for old transactions, and a timeout ends it",
    23: "the session that exports a snapshot dies, or stays open",
    24: "the slot is active for a PID",
    25: "WAL kept without limit",
    26: "DDL of the core that waits for us, or we for it",
    27: "one huge transaction takes all memory",
    28: "the spool fills the disk",
    29: "one write for each row",
    30: "a torn tail is trusted; the directory is not synced",
    31: "idle looks like lag, dead looks like idle",
    32: "counters that begin anew",
    33: "a missing version begins the fold anew",
    34: "an unknown event type is passed over in the stream, and fatal elsewhere",
    35: "a changed definition applied to new events only",
    36: "a rebuild that takes the live table away first, or loses views and grants",
    37: "waiting for numbers that were given out and never committed",
    38: "NULL in a list; the last element removed gives NULL",
    39: "sums that drift",
    40: "half of a batch to be seen",
    41: "a report made now, from data of yesterday",
    42: "a second request meets the first one's placeholder",
    43: "names of states that two systems spell differently, and a reader that tries again for ever",
    44: "a job that can never work is tried without end",
    45: "everything made anew for one changed row",
    46: "tests of the data that run when it has been seen, or never",
    47: "scheduled runs that overlap, are missed, or meet a change of the clocks",
    48: "formulas, quotes and control characters in files; a path in a report's name",
    49: "YAML that readers take for different things",
    50: "after a restore or failover new events with old numbers are dropped as duplicates",
    51: "a writer open across ALTER PUBLICATION … ADD TABLE",
    52: "a reader that meets a table emptied, or swapped by name, after its snapshot",
    53: "a publication that forbids the core its own DDL",
    54: "a row of the ledger updated for ever under a long snapshot",
    55: "a zombie in mid-COPY; a takeover whose answer is lost",
    56: "binary form of a type that has none",
    57: "a publication dropped and made again",
    58: "two_phase: COMMIT PREPARED without its rows",
    59: "on a new timeline real commits lie below what was applied",
    60: "a commit in the stream that the core does not show yet",
}
# Their part is being built: no test yet is no failure.
TEST = re.compile(r"^(?:def|static void) (test_traps?_((?:\d+_)(?:and_\d+_)*)\w+)\(", re.M)


def named():
    """{trap: [(file, test)]}, and what is wrong."""
    files = subprocess.run(["git", "ls-files", "tests/unit/*.c", "tests/system/*.py"], capture_output=True, text=True,
                           check=True).stdout.split()
    found, wrong = defaultdict(list), []
    for file in files:
        text = Path(file).read_text(encoding="utf-8")
        for match in TEST.finditer(text):
            name = match.group(1)
            for number in map(int, re.findall(r"\d+", match.group(2))):
                found[number].append((file, name))
                if number not in TRAPS:
                    wrong.append(f"{file}: {name}: {Path(__file__).name} knows no trap {number}")
            if file.endswith(".c") and len(re.findall(rf"\b{name}\b", text)) < 2:
                wrong.append(f"{file}: {name} is not in the table of its tests")
    wrong += [f"trap {n} ({what}) has no test" for n, what in TRAPS.items() if n not in found]
    return found, wrong


def page(found):
    lines = []
    for number, what in TRAPS.items():
        if number in found:
            lines += [f"\n**{number}** {what}\n\n"]
            lines += [f"- `{file}`: `{name}`\n" for file, name in sorted(found[number])]
    return HEAD + "".join(lines)


def main():
    found, wrong = named()
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(found), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(found):
        wrong.append(f"{PAGE} is stale: make traps")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


sys.exit(main())
