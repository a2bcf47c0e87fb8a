"""What the docs say is so: the command reference, the README's commands, paths and links."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import REPO

README = (REPO / "README.md").read_text("utf-8")


def printed_help() -> str:
    environment = os.environ | {"COLUMNS": "110"}
    command = [sys.executable, "e2e_mlflow.py", "--help"]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_command_reference_is_the_help():
    reference = (REPO / "docs" / "cli.md").read_text("utf-8")
    assert printed_help().strip() in reference, "write it anew: make docs"


def test_every_flag_and_mode_of_the_readme_exists():
    known = printed_help()
    flags = set(re.findall(r"`(--[a-z-]+)[` ]", README)) | set(re.findall(r"e2e_mlflow\.py.*?(--[a-z-]+)", README))
    unknown = {flag for flag in flags if flag not in known} - {"--env-manager", "--help"}
    assert not unknown
    from genai_lifecycle.cli.main import MODES

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
