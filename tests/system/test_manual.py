"""The manual pages and the shells' completions say what --help and the configuration say, and their readers take
them without a complaint."""
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from program import ROLAG


def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **more)


def need(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (make deps-test)")


def rolag(*words):
    done = run(ROLAG, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands():
    return dict(re.findall(r"^  ([a-z]+) +(.*)$", rolag("--help").split("Options:")[0], re.M))


def options(command):
    """[(option, value or None)] of `rolag COMMAND --help`."""
    listed = rolag(command, "--help").split("\nOptions:\n")[1]
    return re.findall(r"^  (--[a-z-]+)(?: ([^ a-z][^ ]*))? ", listed, re.M)


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share")
    rolag("manual", str(folder))
    return folder


def words_of(page):
    """The page as a terminal shows it, in one line."""
    shown = run("mandoc", "-T", "utf8", str(page)).stdout
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", shown))


def test_every_command_and_option_has_its_place_in_the_manual(share):
    need("mandoc")
    listed = commands()
    assert len(listed) >= 18 and "quarantine" in listed
    pages = {path.name for path in (share / "man/man1").iterdir()}
    assert pages == {"rolag.1"} | {f"rolag-{name}.1" for name in listed}
    overview = words_of(share / "man/man1/rolag.1")
    for name, says in listed.items():
        assert f"rolag-{name}(1) {says}" in overview
        page = words_of(share / f"man/man1/rolag-{name}.1")
        found = options(name)
        assert ("--config", "FILE") in found
        for option, value in found:
            assert f" {option}{' ' + value if value else ''} " in page, (name, option)
        assert "111 temporary, try again" in page


def test_every_configuration_key_is_in_its_page(share):
    need("mandoc")
    page = words_of(share / "man/man5/rolag.yaml.5")
    section, keys = "", []
    for line in rolag("config").splitlines():
        if m := re.match(r"([a-z_]+):(.*)", line):
            section = m[1] + "." if not m[2] else ""
            keys += [m[1]] if m[2] else []
        elif m := re.match(r"  ([a-z_]+):", line):
            keys.append(section + m[1])
    assert len(keys) > 50 and "spool.quota" in keys and "pipeline" in keys
    for key in keys:
        assert f" {key} " in page, key
    assert "spool.quota All segments together." in page and "Range: 1 MB to 16 TB. Default: 16 GB." in page


def test_the_pages_have_no_flaw(share):
    need("mandoc")
    need("groff")
    pages = [str(p) for p in sorted((share / "man").glob("man*/*"))]
    done = run("mandoc", "-T", "lint", "-W", "warning", *pages)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for page in pages:
        done = run("groff", "-man", "-ww", "-z", "-T", "utf8", page)
        assert done.stdout + done.stderr == "", page


# ---- completions ----

CASES = [
    ("sta", {"status"}),
    ("", None),     # every command
    ("status --", {"--color", "--json", "--prometheus", "--tables", "--watch", "--config", "--help"}),
    ("quarantine ", {"list", "show", "retry", "skip"}),
    ("--config /x quarantine sh", {"show"}),
    ("report ver", {"verify"}),
    ("init ", {"core", "warehouse"}),
]


def wanted(words):
    return set(commands()) if words is None else words


def offered(words, all_offered):
    """Without options where none was asked for: shells differ in whether they come along."""
    return {w for w in all_offered if not w.startswith("--") or "--" in words}


@pytest.mark.parametrize("line, wants", CASES)
def test_bash_completes(share, line, wants):
    words = ["rolag", *line.split(" ")]
    script = (f"source {share}/bash-completion/completions/rolag\nCOMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)})\n"
              f"COMP_CWORD={len(words) - 1}\n_rolag\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"")
    done = run("bash", "-u", "-c", script)
    assert done.stderr == ""
    assert offered(line, done.stdout.split()) == wanted(wants)


def test_bash_completes_files_where_a_file_is_wanted(share, tmp_path):
    (tmp_path / "some file.yaml").touch()
    (tmp_path / "sub").mkdir()
    script = """source "$1"; cd "$2"; shift 2; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rolag
                printf '%s\\n' "${COMPREPLY[@]}\""""

    def complete(*words):
        return run("bash", "-c", script, "bash", str(share / "bash-completion/completions/rolag"), str(tmp_path),
                   "rolag", *words).stdout.splitlines()
    assert complete("--config", "so") == ["some file.yaml"]
    assert complete("status", "--config", "=", "so") == ["some file.yaml"]
    assert complete("--config", "=", "x", "fo") == ["fold"]
    assert complete("fold", "so") == ["some file.yaml"]
    assert complete("check", "--rollups", "s") == ["sub"]
    assert complete("spool", "--from", "s") == [""]     # an LSN: nothing to offer


@pytest.mark.parametrize("line, wants", CASES)
def test_fish_completes(share, line, wants):
    need("fish")
    done = run("fish", "--no-config", "-c",
               f"source {share}/fish/vendor_completions.d/rolag.fish; complete -C 'rolag {line}'",
               env={**os.environ, "HOME": str(share)})
    assert done.stderr == ""
    found = [w.partition("\t")[0] for w in done.stdout.splitlines()]
    assert offered(line, found) == wanted(wants)


ZSH = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1=; fpath=('$1' $fpath); autoload -Uz compinit; compinit -u -D; zstyle ":completion:*" list-max 1000'
zpty -w z 'LISTMAX=1000; compadd() { builtin compadd -O found "$@"; print -r -- "GOT" $found; builtin compadd "$@" }; echo RE''ADY'
zpty -r z out '*READY*'
zpty -w -n z "rolag $2"$'\t'
sleep 1
zpty -r -t z out '*'
while zpty -r -t z more; do out+=$more; done
print -r -- $out
"""


@pytest.mark.parametrize("line, wants", [c for c in CASES if c[0] != "sta"])
def test_zsh_takes_it(share, line, wants):
    need("zsh")
    path = share / "zsh/site-functions/_rolag"
    done = run("zsh", "-f", "-n", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    done = run("zsh", "-f", "-c", ZSH, "zsh", str(path.parent), line)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    for word in wanted(wants):
        # A single one is completed on the line: only what was missing of it is written.
        rest = word.removeprefix(line.split(" ")[-1])
        assert re.search(rf"(?<![a-z-])({re.escape(word)}|{rest} )(?![a-z-])", shown), (word, shown)
    assert "nonsense" not in shown and "command not found" not in shown


def test_make_install_puts_all_below_destdir_and_prefix(tmp_path):
    done = run("make", "-s", "-C", ROOT, "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/x",
               env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")})
    assert done.returncode == 0, done.stderr
    below = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"opt/x/bin/rolag", "opt/x/share/man/man1/rolag-status.1", "opt/x/share/man/man5/rolag.yaml.5",
            "opt/x/share/bash-completion/completions/rolag", "opt/x/share/zsh/site-functions/_rolag",
            "opt/x/share/fish/vendor_completions.d/rolag.fish",
            "opt/x/share/rolag/lana/reports.yaml"} <= below, below
    assert {p.split("/")[0] for p in below} == {"opt"}
    assert os.access(tmp_path / "opt/x/bin/rolag", os.X_OK)
