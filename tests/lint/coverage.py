#!/usr/bin/python3
"""Lines and branches per file, from gcovr's JSON on stdin; and each branch never taken of the files named as
arguments: file:line, how many of its branches, and the line's text. Not counted are branches that nothing
may take (to rt_bug, in RT_ASSERT) and those within uthash's macros.

uncovered.txt says why the others are not taken, a line each: `file: function: text: reason`, where text is
a part of the source line. It fails when a branch has no such entry, or an entry no such branch."""
import json
import re
import sys
from pathlib import Path

REASONS = Path(__file__).with_name("uncovered.txt")


def counts(line):
    return not any(macro in line for macro in ("RT_ASSERT(", "HASH_ADD", "HASH_DEL", "HASH_FIND", "HASH_ITER"))


def never(file, text):
    """(line number, branches never taken, branches) where some are."""
    for line in file["lines"]:
        branches = [b for b in line["branches"] if not b["throw"]]
        missing = sum(b["count"] == 0 for b in branches)
        if missing and counts(text[line["line_number"] - 1]):
            yield line["line_number"], missing, len(branches)


def function_at(text, number):
    """The function whose body has the line: its head is the last line before that begins at the margin with a
    name and is no label."""
    for line in reversed(text[:number]):
        if found := re.match(r"[a-z][^=;]*?(\w+)\(", line):
            return found.group(1)
    return "?"


def reasons():
    """[(file, function, part of the line, reason)]"""
    entries = []
    for line in REASONS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            parts = line.split(": ", 3)
            if len(parts) != 4:
                sys.exit(f"{REASONS}: not `file: function: text: reason`: {line}")
            entries.append(tuple(parts))
    return entries


def main(named):
    report = json.load(sys.stdin)
    entries = reasons()
    used = set()
    print(f"{'file':44} {'lines':>12} {'branches':>12}")
    explained, failures = [], []
    for file in report["files"]:
        path = file["file"]
        with open(path, encoding="utf-8") as f:
            text = f.read().split("\n")
        lines = [x for x in file["lines"] if not x.get("gcovr/noncode")]
        hit = sum(x["count"] > 0 for x in lines)
        branches = [b for x in lines if counts(text[x["line_number"] - 1]) for b in x["branches"]]
        taken = sum(b["count"] > 0 for b in branches)
        print(f"{path:44} {hit:5}/{len(lines):<5} {taken:6}/{len(branches):<5}")
        for number, missing, of in never(file, text) if path in named else ():
            source, function = text[number - 1].strip(), function_at(text, number)
            found = f"{path}:{number}: {missing} of {of} never taken: {source}"
            entry = next((e for e in entries if e[:2] == (path, function) and e[2] in source), None)
            if entry is None:
                failures.append(f"{found} (in {function}: test it, or say why not in {REASONS.name})")
            else:
                explained.append(f"{found} ({entry[3]})")
                used.add(entry)
    failures += [f"{REASONS.name}: all are taken now, so it can go: {': '.join(e)}" for e in entries if e not in used]
    print("\n".join(["", *explained]) if explained else "")
    if failures:
        sys.exit("\n".join(["", *failures]))


main(sys.argv[1:])
