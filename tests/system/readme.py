"""Pages of the README that tests follow to the letter."""
import os
import re
import socket

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def section(heading):
    """The page under a heading."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        return f.read().split(heading + "\n", 1)[1].split("\n## ", 1)[0]


def blocks(heading):
    """[(language, who, text)] of the page under a heading."""
    page = section(heading)
    found = re.findall(r"^```(\w+)\n(?:#|--) (.*?)\n(.*?)^```$", page, re.M | re.S)
    assert len(found) == page.count("\n```") / 2, "a block without its first line"
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
