#!/usr/bin/python3
"""Includes go one way (CONTRIBUTING.md, "Layers"): exits 1 naming each include that does not."""
import pathlib
import re
import subprocess
import sys

# Folder prefix -> prefixes that its files may include (its own is always allowed).
EDGES = [
    ("proto/base/", []),
    ("proto/pg/", ["proto/"]),
    ("proto/", ["proto/base/"]),
    ("transforms/", ["proto/"]),
    ("apply/", ["proto/", "transforms/"]),
    ("cdc/capture/", ["proto/"]),
    ("cdc/commands/", ["proto/", "transforms/", "apply/", "cdc/"]),
    ("cdc/", ["proto/", "transforms/", "apply/", "cdc/"]),
    ("tests/", ["proto/", "transforms/", "apply/", "cdc/", "tests/"]),
]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def allowed(path, target):
    for prefix, targets in EDGES:
        if path.startswith(prefix):
            if target.startswith("proto/pg/") and prefix == "proto/":
                return False
            return any(target.startswith(t) for t in [prefix, *targets])
    return False


def main():
    files = subprocess.run(["git", "ls-files", "*.c", "*.h"], capture_output=True, text=True,
                           check=True).stdout.split()
    bad = 0
    for name in files:
        text = pathlib.Path(name).read_text()
        for target in INCLUDE.findall(text):
            if not allowed(name, target):
                print(f"{name}: must not include {target}")
                bad += 1
        if name.endswith(".h"):
            guard = re.sub(r"[^A-Z0-9]", "_", name.upper())
            if f"#ifndef {guard}\n#define {guard}\n" not in text:
                print(f"{name}: the guard must be {guard}")
                bad += 1
    return 1 if bad else 0


sys.exit(main())
