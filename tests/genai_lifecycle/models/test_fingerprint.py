"""One hash over all files of a served model."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_lifecycle.models.fingerprint import artifacts_sha256

NAMES = ("code", "prompt.json")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "code" / "deep").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("a = 1\n", "utf-8")
    (tmp_path / "code" / "deep" / "b.py").write_text("b = 2\n", "utf-8")
    (tmp_path / "prompt.json").write_text("{}", "utf-8")
    return tmp_path


def test_it_depends_on_content_and_path_and_on_nothing_else(folder, tmp_path_factory):
    whole = artifacts_sha256(folder, NAMES)
    moved = folder.rename(tmp_path_factory.mktemp("other") / "place")
    assert artifacts_sha256(moved, reversed(NAMES)) == whole
    (moved / "code" / "__pycache__").mkdir()
    (moved / "code" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    (moved / "not named").write_text("", "utf-8")
    assert artifacts_sha256(moved, NAMES) == whole


@pytest.mark.parametrize("change", ["content", "name", "added", "lost"])
def test_a_change_to_any_file_is_seen(folder, change):
    whole, file = artifacts_sha256(folder, NAMES), folder / "code" / "deep" / "b.py"
    {
        "content": lambda: file.write_text("b = 3\n", "utf-8"),
        "name": lambda: file.rename(file.with_name("c.py")),
        "added": lambda: (folder / "code" / "deep" / "empty").touch(),
        "lost": file.unlink,
    }[change]()
    assert artifacts_sha256(folder, NAMES) != whole
