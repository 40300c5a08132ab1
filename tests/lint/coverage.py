#!/usr/bin/python3
"""Lines and branches per file, from gcovr's JSON on stdin; and each branch never taken of the files named as
arguments: file:line, how many of its branches, and the line's text. Not counted are branches that nothing
may take (to rt_bug, in RT_ASSERT) and those within uthash's macros."""
import json
import sys


def counts(line):
    return not any(macro in line for macro in ("RT_ASSERT(", "HASH_ADD", "HASH_DEL", "HASH_FIND", "HASH_ITER"))


def never(file, text):
    """(line number, branches never taken, branches) where some are."""
    for line in file["lines"]:
        branches = [b for b in line["branches"] if not b["throw"]]
        missing = sum(b["count"] == 0 for b in branches)
        if missing and counts(text[line["line_number"] - 1]):
            yield line["line_number"], missing, len(branches)


def main(named):
    report = json.load(sys.stdin)
    print(f"{'file':44} {'lines':>12} {'branches':>12}")
    details = []
    for file in report["files"]:
        path = file["file"]
        with open(path, encoding="utf-8") as f:
            text = f.read().split("\n")
        lines = [x for x in file["lines"] if not x.get("gcovr/noncode")]
        hit = sum(x["count"] > 0 for x in lines)
        branches = [b for x in lines if counts(text[x["line_number"] - 1]) for b in x["branches"]]
        taken = sum(b["count"] > 0 for b in branches)
        print(f"{path:44} {hit:5}/{len(lines):<5} {taken:6}/{len(branches):<5}")
        if path in named:
            details += [f"{path}:{number}: {missing} of {of} never taken: {text[number - 1].strip()}"
                        for number, missing, of in never(file, text)]
    print("\n".join(["", *details]) if details else "")


main(sys.argv[1:])
