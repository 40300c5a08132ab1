"""Pages of the README and the runbook that tests follow to the letter."""
import os
import re
import socket

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def section(heading, document="README.md"):
    """The page under a heading."""
    with open(os.path.join(ROOT, document), encoding="utf-8") as f:
        return f.read().split(heading + "\n", 1)[1].split("\n## ", 1)[0]


def blocks(heading, document="README.md"):
    """[(language, who, text)] of the page under a heading; not those that show what is printed (```text)."""
    page = section(heading, document)
    found = re.findall(r"^```(\w+)\n(?:#|--) (.*?)\n(.*?)^```$", page, re.M | re.S)
    page = re.sub(r"^```text\n.*?^```$", "", page, flags=re.M | re.S)
    assert len(found) == page.count("\n```") / 2, "a block without its first line"
    return found


def shown(heading, document="README.md"):
    """What the page says that is printed, block by block."""
    return re.findall(r"^```text\n(.*?)^```$", section(heading, document), re.M | re.S)


def is_shown(text, out):
    """Does the program's output have each line of a page's, but for its numbers, times and ids?"""
    def plain(line):
        line = re.sub(r"\b(?=[0-9A-F]*\d)[0-9A-F]+/[0-9A-F]+\b", "LSN", line)
        line = re.sub(r"\d+([.,:]\d+)*( ?(kB|MB|GB|B|s|min|h|ms)\b)?", "N", line)
        return re.sub(r"[\s─-]+", " ", line).strip()
    printed = [plain(line) for line in out.splitlines()]
    return [line for line in text.splitlines() if line.strip() and not any(plain(line) in p for p in printed)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
