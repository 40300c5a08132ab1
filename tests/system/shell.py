"""A shell that runs a page's blocks: variables and children live from block to block."""
import os
import subprocess

from pipeline import ROOT, TIMEOUT, wait_for


class Shell:
    """One shell of rolag's machine."""

    def __init__(self, folder, env, at=ROOT):
        self.folder, self.log, self.count = folder, os.path.join(folder, "shell.log"), 0
        with open(self.log, "wb") as out:
            self.bash = subprocess.Popen(["bash", "--norc", "--noprofile"], stdin=subprocess.PIPE, stdout=out, stderr=out,
                                         cwd=at, env=env, start_new_session=True)

    def run(self, text):
        """(exit code, what it printed)."""
        self.count += 1
        path, begin = os.path.join(self.folder, f"block{self.count}"), os.path.getsize(self.log)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        self.bash.stdin.write(f'. "{path}"; echo "@@$?" > "{path}.rc"\n'.encode())
        self.bash.stdin.flush()
        wait_for(f"the end of: {text}", lambda: os.path.exists(path + ".rc") and os.path.getsize(path + ".rc") > 3,
                 TIMEOUT * 2)
        with open(path + ".rc", encoding="utf-8") as f, open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(begin)
            return int(f.read()[2:]), log.read()

    def close(self):
        try:
            os.killpg(self.bash.pid, 9)
        except ProcessLookupError:
            pass
        self.bash.wait()
