"""A folder that cannot be written is told before anything is computed, with one sentence and the next step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import make_cases

from genai_lifecycle.cli import main as cli
from genai_lifecycle.cli import places
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.models.bundle_place import require_bundle_place
from genai_lifecycle.runtime.scratch import scratch_folder

# Modes with scratch files, answers of an interrupted run, or a result for programs.
USE_STAGING = ("experiment", "deploy", "test", "export", "verify", "evaluate", "import-feedback", "monitor", "all")
NOBODY = 65534
ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user can reach; pytest's own ones are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may write everywhere."""
    if not ROOT:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Run a mode on a store below `place`; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(place / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")

    def call(*arguments: str):
        cases = (
            ["--cases", str(make_cases(place / "cases.jsonl"))] if "--cases" in cli.MODES[arguments[0]].flags else []
        )
        code = cli.main(["--mode", *arguments, *cases])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_told(result, place: Path, code: int, sentence: str) -> None:
    got, out, err = result
    assert (got, out) == (code, ""), err
    assert err.startswith("Error: ") and sentence in err and "\n  -> " in err and "Traceback" not in err
    assert not (place / "mlflow.db").exists() and not (place / "artifacts").exists(), "nothing was begun"


@pytest.mark.parametrize("mode", USE_STAGING)
def test_a_file_in_the_place_of_the_scratch_folder(run, place, monkeypatch, mode):
    (place / "file").write_text("mine")
    for folder in (place / "file", place / "file" / "below"):
        monkeypatch.setenv("LIFECYCLE_STAGING_DIR", str(folder))
        told = run(mode)
        assert_told(told, place, 11, f"Nothing can be written to {folder}: {place}/file: Not a directory.")
        assert "LIFECYCLE_STAGING_DIR" in told[2]
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("arguments", [["ui"], ["serve", "--start"]])
def test_a_file_in_the_place_of_the_log_folder(run, place, monkeypatch, arguments):
    (place / "file").write_text("mine")
    monkeypatch.setenv("LIFECYCLE_LOG_DIR", str(place / "file"))
    told = run(*arguments)
    assert_told(told, place, 11, f"Nothing can be written to {place}/file")
    assert "LIFECYCLE_LOG_DIR" in told[2]


@pytest.mark.parametrize("mode", ["export", "all"])
def test_a_bundle_that_could_not_be_written(run, place, mode):
    (place / "file").write_text("mine")
    told = run(mode, "--output-dir", str(place / "file" / "bundle"))
    assert_told(told, place, 5, f"No bundle can be written to {place}/file/bundle: {place}/file: Not a directory.")
    (place / "taken").mkdir()
    (place / "taken" / "thesis.txt").write_text("mine")
    told = run(mode, "--output-dir", str(place / "taken"))
    assert_told(told, place, 5, "what is in it is no bundle: thesis.txt.")
    assert "--overwrite" in told[2] and "--output-dir" in told[2]


@pytest.mark.parametrize(
    ("arguments", "code", "folder"),
    [
        (["all"], 11, "staging"),
        (["test"], 11, "staging"),
        (["ui"], 11, "logs"),
        (["all", "--output-dir", "PLACE/closed/bundle"], 5, "closed"),
        (["monitor", "--report", "PLACE/closed/monitor.md"], 11, "closed"),
        (["import-feedback", "--to-cases", "PLACE/closed/cases.jsonl"], 11, "closed"),
    ],
)
def test_a_folder_of_another_user(run, place, monkeypatch, arguments, code, folder):
    for name in ("staging", "logs", "closed"):
        (place / name).mkdir(mode=0o755)
    for name in ("staging", "logs"):
        (place / name).chmod(0o777)
        monkeypatch.setenv(f"LIFECYCLE_{name.removesuffix('s').upper()}_DIR", str(place / name))
    (place / folder).chmod(0o755 if ROOT else 0o555)
    make_cases(place / "cases.jsonl").chmod(0o666)
    with as_another_user():
        told = run(*[word.replace("PLACE", str(place)) for word in arguments])
    assert_told(told, place, code, f"{place}/{folder}: Permission denied.")


def test_a_folder_that_is_to_be_made_is_looked_for_where_it_will_be(place):
    config = E2EConfig(staging_dir=place / "a" / "b")
    places.require_writable(config, "staging_dir")
    require_bundle_place(config, place / "c" / "bundle", overwrite=False)
    assert list(place.iterdir()) == [], "looking leaves nothing"
    (place / "a").symlink_to(place / "nowhere")
    with pytest.raises(StorageFailed, match=f"{place}/a: No such file or directory"):
        places.require_writable(config, "staging_dir")


def test_a_scratch_folder_that_is_closed_in_the_middle(place):
    (place / "file").write_text("")
    with pytest.raises(StorageFailed, match="LIFECYCLE_STAGING_DIR"), scratch_folder(place / "file", "test"):
        pass
