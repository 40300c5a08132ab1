"""The program under test: build/release/rolag, or the one that ROLAG names (`make test-asan`: build/asan/rolag)."""
import fcntl
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROLAG = os.path.abspath(os.environ.get("ROLAG", os.path.join(ROOT, "build", "release", "rolag")))


def build(*targets, mode="asan"):
    """Makes what a test needs beside the program; one at a time, whoever else runs."""
    os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
    with open(os.path.join(ROOT, "build", "tests.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", f"MODE={mode}", *targets], cwd=ROOT, check=True)


class Reports:
    """What the sanitizers of every program that a test starts (in this folder's environment) have to say."""

    def __init__(self, folder):
        self.folder = folder
        path = os.path.join(folder, "report")
        os.environ["ASAN_OPTIONS"] = f"log_path={path}:detect_leaks=1"
        os.environ["UBSAN_OPTIONS"] = f"log_path={path}:print_stacktrace=1"

    def take(self):
        """All reports since the last time, as text."""
        text = ""
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            with open(path, encoding="utf-8", errors="replace") as f:
                text += f.read()
            os.unlink(path)
        return text
