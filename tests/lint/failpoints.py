#!/usr/bin/python3
"""Each failpoint of failpoints.def has one call site, and its name: exits 1 naming each that has not."""
import pathlib
import re
import subprocess
import sys

DEF = re.compile(r'^FAILPOINT_DEF\((\w+), "([a-z_.]+)", ([A-Z_ |]+|0), "[^"]+"\)$', re.M)
CALL = re.compile(r"\b(?:FAILPOINT|FAILPOINT_FD|FP_FAILS|FP_ERROR|FP_BYTES)\((\w+)[,)]")


def main():
    text = pathlib.Path("proto/base/failpoints.def").read_text()
    points = DEF.findall(text)
    files = subprocess.run(["git", "ls-files", "*.c"], capture_output=True, text=True, check=True).stdout.split()
    calls = [c for f in files for c in CALL.findall(pathlib.Path(f).read_text())]
    wrong = []
    if len(points) != text.count("\nFAILPOINT_DEF("):
        wrong.append("failpoints.def: a line that is not FAILPOINT_DEF(ID, \"name\", can, \"help\")")
    for id_, name, _ in points:
        if name.upper().replace(".", "_") != id_:
            wrong.append(f"failpoints.def: {id_} must be named after {name}")
        if calls.count(id_) != 1:
            wrong.append(f"failpoints.def: {name} has {calls.count(id_)} call sites")
    wrong += [f"{c}: not in failpoints.def" for c in sorted(set(calls) - {p[0] for p in points})]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


sys.exit(main())
