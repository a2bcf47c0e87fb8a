"""What the docs say is so: the command reference, the README's commands, paths and links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import REPO

from genai_lifecycle.cli.flags import reference
from genai_lifecycle.cli.main import MODES

README = (REPO / "README.md").read_text("utf-8")


KNOWN = {"--mode", "--help", "--verbose", *(flag for mode in MODES.values() for flag in mode.flags)}
OTHERS = {"--env-manager", "--artifacts-destination", "--force"}  # of MLflow; one that went
PAGES = ["README.md", *(f"docs/{path.name}" for path in REPO.glob("docs/*.md"))]


def printed_help(*words: str) -> str:
    environment = os.environ | {"COLUMNS": "110"}
    command = [sys.executable, "e2e_mlflow.py", *words, "--help"]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_command_reference_is_the_help_of_every_mode(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    written = (REPO / "docs" / "cli.md").read_text("utf-8")
    assert written == reference(MODES), "write it anew: make docs"
    for words in ([], ["--mode", "export"], ["--mode", "all"]):
        assert f"```\n{printed_help(*words)}```" in written


@pytest.mark.parametrize("mode", [None, *MODES])
def test_help_is_one_screen(mode):
    reference = (REPO / "docs" / "cli.md").read_text("utf-8")
    page = re.search(rf"^## {mode}\n\n```\n(.*?)```" if mode else r"```\n(.*?)```", reference, re.MULTILINE | re.DOTALL)
    lines = page[1].splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 110


def test_help_is_there_at_once():
    times = []
    for _ in range(5):
        started = time.monotonic()
        printed_help()
        times.append(time.monotonic() - started)
    assert min(times) < 1.0  # 0.2 s as a rule; with MLflow imported it would be 2 s


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_exists(page):
    text = (REPO / page).read_text("utf-8")
    flags = set(re.findall(r"`(--[a-z][a-z0-9-]+)[` ]", text))
    flags |= {flag for line in re.findall(r"e2e_mlflow\.py(.*)", text) for flag in re.findall(r" (--[a-z0-9-]+)", line)}
    assert not flags - KNOWN - OTHERS


def test_a_command_of_a_page_has_flags_of_its_mode():
    for page in [*PAGES, "demo_serving/EXPORT_GUIDE.md"]:
        for mode, words in re.findall(r"e2e_mlflow\.py --mode ([a-z-]+)([^`\n]*)", (REPO / page).read_text("utf-8")):
            flags = re.findall(r" (--[a-z0-9-]+)", words.partition("#")[0].partition(";")[0])
            assert not set(flags) - {*MODES[mode].flags, "--help", "--verbose"}, f"{page}: --mode {mode}{words}"


def test_every_mode_of_the_readme_exists():
    table = re.findall(r"^\| `([a-z-]+)` \|", README[README.index("## Modes") : README.index("## Serving")], re.M)
    assert sorted(table) == sorted(MODES)


def test_every_make_target_of_the_docs_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text("utf-8"), re.M))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:`|^|&& )make ([a-z-]+)", (REPO / page).read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(REPO)) for p in REPO.glob("docs/**/*.md"))]
)
def test_links_lead_somewhere(page):
    path = REPO / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), f"{page}: {target}"


def test_the_file_tree_of_the_readme_exists():
    tree = README[README.index("## What is where") : README.index("## When something fails")]
    names = re.findall(r"^([ ]*)((?:[\w.]+(?:\.py|/)[ ]?)+)", tree, re.M)
    folder = REPO
    for indent, words in names:
        is_inside = bool(indent)
        for name in words.split():
            assert ((folder if is_inside else REPO) / name).exists(), name
        folder = folder if is_inside else REPO / words.split()[0]


def test_ci_runs_the_readmes_test_command():
    assert "make test-all" in (REPO / ".ci" / "run").read_text("utf-8").splitlines()
    assert "`make test-all`" in README


def test_the_version_stands_in_one_place_and_has_its_section():
    from genai_server import __version__

    sections = re.findall(r"^## (\S+)", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[:2] == ["Unreleased", __version__]
    assert 'version = { attr = "genai_server.__version__" }' in (REPO / "pyproject.toml").read_text("utf-8")
