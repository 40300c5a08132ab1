"""A terminal to run programs in: what they write to it, and the screen that a person would see."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata

from pipeline import TIMEOUT

ESCAPE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """As much of a terminal as rolag uses. An escape that it does not know is an error."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.at, self.wrapped, self.modes, self.inks, self.ink = (0, 0), 0, {}, set(), ""
        self.cells = [[" "] * columns for _ in range(rows)]

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.cells = [(row + [" "] * columns)[:columns] for row in (self.cells + [[] for _ in range(rows)])[:rows]]

    def lines(self):
        return ["".join(row).rstrip() for row in self.cells]

    def text(self):
        return "\n".join(self.lines()).rstrip("\n")

    def feed(self, text):
        """What of it is not a whole escape yet."""
        while text:
            m = ESCAPE.match(text)
            if m:
                self.escape(*m.groups())
                text = text[m.end():]
            elif text[0] == "\x1b" and len(text) < 8:
                return text
            else:
                assert text[0] != "\x1b", text[:10]
                self.put(text[0])
                text = text[1:]
        return ""

    def put(self, c):
        row, column = self.at
        if c == "\r":
            self.at = (row, 0)
        elif c == "\n":
            if row + 1 == self.rows:
                self.cells = self.cells[1:] + [[" "] * self.columns]
            self.at = (min(row + 1, self.rows - 1), column)
        elif c >= " ":
            width = 2 if unicodedata.east_asian_width(c) in "WF" else 1
            if column + width > self.columns:
                self.wrapped += 1
                self.put("\r")
                self.put("\n")
                row, column = self.at
            self.cells[row][column] = c
            self.at = (row, column + width)

    def escape(self, private, numbers, letter):
        row, column = self.at
        if private:
            self.modes[numbers] = letter == "h"
            if numbers == "1049":
                self.cells = [[" "] * self.columns for _ in range(self.rows)]
        elif letter == "H" and not numbers:
            self.at = (0, 0)
        elif letter == "K" and not numbers:
            if column < self.columns:
                self.cells[row][column:] = [" "] * (self.columns - column)
        elif letter == "J" and not numbers:
            self.cells[row][column:] = [" "] * (self.columns - column)
            self.cells[row + 1:] = [[" "] * self.columns for _ in range(self.rows - row - 1)]
        elif letter == "m":
            self.ink = "" if numbers == "0" else numbers
            self.inks.add(self.ink)
        else:
            raise AssertionError(f"escape {private}{numbers}{letter}")


class Terminal:
    """A program with a terminal of its own as stdin, stdout and stderr; stdout or stderr may go elsewhere."""

    def __init__(self, words, columns=80, rows=24, env=None, stdout=None, stderr=None):
        self.parent, child = pty.openpty()
        self.screen = Screen(columns, rows)
        self.size(columns, rows, tell=False)
        self.before = termios.tcgetattr(child)
        self.raw, self.rest = b"", ""
        env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/"),
               **{k: v for k, v in os.environ.items() if k.startswith(("PG", "ASAN", "UBSAN"))}, **(env or {})}
        self.popen = subprocess.Popen(words, stdin=child, stdout=stdout if stdout is not None else child,
                                      stderr=stderr if stderr is not None else child,
                                      env={k: v for k, v in env.items() if v is not None}, start_new_session=True)
        self.child = child      # kept: what was written stays readable when the program has ended

    def size(self, columns, rows, tell=True):
        fcntl.ioctl(self.parent, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.read(0)
            self.screen.resize(columns, rows)
            self.popen.send_signal(signal.SIGWINCH)     # the session has no controlling terminal that would

    def read(self, seconds=0.05):
        while select.select([self.parent], [], [], seconds)[0]:
            self.raw += (got := os.read(self.parent, 65536))
            self.rest = self.screen.feed(self.rest + got.decode("utf-8", "replace"))
            seconds = 0

    def wait_for(self, what, shown):
        """Until shown(the screen's text)."""
        until = time.monotonic() + TIMEOUT
        while not (found := shown(self.screen.text())):
            assert time.monotonic() < until, f"{what}: not on\n{self.screen.text()}"
            self.read()
        return found

    def press(self, key):
        os.write(self.parent, key.encode())

    def end(self):
        """Its exit code; everything that it wrote is read."""
        until = time.monotonic() + TIMEOUT
        while self.popen.poll() is None:
            assert time.monotonic() < until, f"it does not end\n{self.screen.text()}"
            self.read()
        self.read()
        return self.popen.returncode

    def is_as_before(self):
        return termios.tcgetattr(self.child) == self.before

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        os.close(self.parent)
        os.close(self.child)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
