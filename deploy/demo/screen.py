"""The terminal: lines that stay, and below them a region that is redrawn in place.

Not on a terminal, or on a dumb one: the region is not drawn at all; the caller prints a line now and then.
Colours only on a terminal, and not where NO_COLOR is set.
"""
import os
import re
import shutil
import sys
import time

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_escape = re.compile(r"\033\[[0-9;?]*[A-Za-z]")
_bars = " ▁▂▃▄▅▆▇█"


class Screen:
    def __init__(self, out=None):
        self.out = out or sys.stdout
        self.live = self.out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")
        self.height = 0             # lines of the region as it is on the screen
        self.drawn_at = (0, 0)
        self.started = time.monotonic()
        self.out.reconfigure(errors="replace")

    # text -------------------------------------------------------------------------------------
    def style(self, text, *names):
        if not self.colour or not names or not text:
            return text
        return f"\033[{';'.join(STYLES[n] for n in names)}m{text}\033[0m"

    def width(self):
        """Columns to write in: never the last one, where terminals differ."""
        return (shutil.get_terminal_size((100, 24)).columns - 1) if self.live else 100

    def cut(self, text, width=None):
        """Text of at most so many columns; escape sequences take none."""
        left, parts, at = width or self.width(), [], 0
        for found in _escape.finditer(text):
            parts.append(text[at:found.start()][:left])
            left -= len(parts[-1])
            parts.append(found.group())
            at = found.end()
        parts.append(text[at:][:left])
        return "".join(parts)

    # lines that stay --------------------------------------------------------------------------
    def say(self, text=""):
        self.clear()
        self.out.write(text + "\n")
        self.out.flush()

    def done(self, text, seconds=None, good=True):
        """A step with its outcome; its duration at the right edge."""
        mark = self.style("✓", "green") if good else self.style("✗", "red")
        took = f"{seconds:.1f} s" if seconds is not None else ""
        room = min(self.width(), 100) - 6 - len(took)
        text = self.cut(text, room)
        pad = " " * max(1, room - len(_escape.sub("", text)))
        self.say(f"  {mark} {text}{pad} {self.style(took, 'dim')}".rstrip())

    # the region -------------------------------------------------------------------------------
    def draw(self, lines):
        """Redraws the region; one write, and no line is cleared before it is written again."""
        if not self.live:
            return
        size = shutil.get_terminal_size((100, 24))
        lines = [self.cut(line) for line in lines][:size.lines - 1]
        text = "\033[?25l" + (f"\033[{self.height}A" if self.height else "") + "\r"
        if self.drawn_at != size:   # what was wrapped by a change of width cannot be overwritten line by line
            text += "\033[J"
        text += "".join(line + "\033[K\n" for line in lines) + "\033[J"
        self.height, self.drawn_at = len(lines), size
        self.out.write(text)
        self.out.flush()

    def clear(self):
        """Takes the region away."""
        if self.height:
            self.out.write(f"\033[{self.height}A\r\033[J")
            self.height = 0

    def keep(self):
        """Leaves the region where it is; what comes next comes below."""
        self.height = 0

    def close(self):
        self.keep()
        if self.live:
            try:
                self.out.write("\033[?25h\033[0m")
                self.out.flush()
            except OSError:
                pass


def bar(share, width):
    """A bar of `width` columns, filled to share (0..1)."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full, "─" * (width - full)


def spark(values, width, top=None):
    """The last `width` values as little bars; the scale begins at 0."""
    values = values[-width:]
    top = top or max(values, default=0) or 1
    return "".join(_bars[max(1, min(8, round(v / top * 8)))] for v in values)


def duration(seconds):
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def size(count):
    if count is None:
        return "–"
    for unit in ("bytes", "kB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
