"""What earlier servers left in `local_staging/` is taken over at the start: once, and whole, wherever it is killed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from genai_server.http import former_files
from genai_server.http.former_files import move_former_files
from genai_server.settings import ServerSettings
from genai_server.tracing.spool import Spool


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout in which a server of an earlier version has run."""
    monkeypatch.chdir(tmp_path)
    former = tmp_path / "local_staging"
    former.mkdir()
    (former / "feedback.jsonl.1").write_text("older\n")
    (former / "feedback.jsonl").write_text("newer\n")
    (former / "prompt.json").write_text("a copy")
    put(former / "traces-0123456789ab.db", "first", "second")
    (former / "scratch-deploy-1").mkdir()
    return tmp_path


def put(file: Path, *records: str) -> None:
    with closing(Spool(file)) as spool:
        spool.put(records)


def contents(folder: Path) -> dict[str, object]:
    files = {path.name: path.read_text() for path in folder.iterdir() if not path.suffix.startswith(".db")}
    spools = {path.name: list(Spool(path).first(100).values()) for path in folder.glob("*.db")}
    return files | spools


TAKEN = {
    "feedback.jsonl": "", "feedback.jsonl.1": "older\n", "feedback.jsonl.2": "newer\n", "prompt.json": "a copy",
    "traces-0123456789ab.db": ["first", "second"],
}  # fmt: skip


def test_it_is_moved_and_the_log_says_so_once(checkout, caplog):
    caplog.set_level("INFO")
    move_former_files(ServerSettings())
    assert contents(checkout / "local_mlflow_backend") == TAKEN
    assert [path.name for path in (checkout / "local_staging").iterdir()] == ["scratch-deploy-1"]
    assert caplog.text.count("of an earlier version is now in") == 3
    move_former_files(ServerSettings())
    assert caplog.text.count("of an earlier version") == 3 and contents(checkout / "local_mlflow_backend") == TAKEN


@pytest.mark.parametrize("number", range(1, 5))
def test_a_start_that_is_killed_is_simply_made_again(checkout, monkeypatch, number):
    class Killed(BaseException):
        pass

    rename, calls = os.rename, []

    def killing(*paths) -> None:
        calls.append(1)
        if len(calls) == number:
            raise Killed
        rename(*paths)

    monkeypatch.setattr(os, "rename", killing)
    with pytest.raises(Killed):
        move_former_files(ServerSettings())
    move_former_files(ServerSettings())
    assert contents(checkout / "local_mlflow_backend") == TAKEN


def test_what_is_there_already_is_added_to(checkout):
    now = checkout / "local_mlflow_backend"
    now.mkdir()
    (now / "feedback.jsonl").write_text("now\n")
    (now / "feedback.jsonl.7").write_text("before\n")
    (now / "prompt.json").write_text("a newer copy")
    put(now / "traces-0123456789ab.db", "third")
    move_former_files(ServerSettings())
    assert contents(now) == {
        "feedback.jsonl": "now\n", "feedback.jsonl.7": "before\n", "feedback.jsonl.8": "older\n",
        "feedback.jsonl.9": "newer\n", "prompt.json": "a newer copy",
        "traces-0123456789ab.db": ["third", "first", "second"],
    }  # fmt: skip


def test_traces_that_another_server_still_writes_wait_for_the_next_start(checkout, monkeypatch, caplog):
    file = checkout / "local_staging" / "traces-0123456789ab.db"
    monkeypatch.setattr(former_files, "LOCK_TIMEOUT_S", 0.1)
    with closing(Spool(file)) as theirs:
        move_former_files(ServerSettings())
        assert "stays where it is, until the next start" in caplog.text and file.exists()
        theirs.put(["third"])
    move_former_files(ServerSettings())
    assert contents(checkout / "local_mlflow_backend")[file.name] == ["first", "second", "third"]


def test_a_damaged_file_stays_and_harms_nothing(checkout, caplog):
    file = checkout / "local_staging" / "traces-0123456789ab.db"
    file.write_text("no database, whatever its name says" * 100)
    move_former_files(ServerSettings())
    assert file.exists() and "file is not a database" in caplog.text
    assert (checkout / "local_mlflow_backend" / "feedback.jsonl.2").exists()


def test_traces_of_a_killed_server_are_in_a_second_file_too_and_come_along(checkout):
    """SQLite's write-ahead log, which only its name joins to the database."""
    file = checkout / "local_staging" / "traces-ffffffffffff.db"
    pid = os.fork()
    if pid == 0:
        Spool(file).put(["unsent"])
        os._exit(0)  # as if killed: nothing is closed
    os.waitpid(pid, 0)
    assert file.with_name(f"{file.name}-wal").stat().st_size
    move_former_files(ServerSettings())
    assert contents(checkout / "local_mlflow_backend")[file.name] == ["unsent"]


def test_other_places_are_not_ours_to_move(checkout):
    settings = ServerSettings(feedback_file=str(checkout / "data" / "feedback.jsonl"), prompt_file="data/prompt.json")
    move_former_files(settings)
    assert not (checkout / "data").exists() and (checkout / "local_staging" / "feedback.jsonl").exists()


def test_where_nothing_was_left_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    move_former_files(ServerSettings())
    assert not list(tmp_path.iterdir())
    with pytest.raises(sqlite3.OperationalError):
        former_files._move_spool(tmp_path / "traces-a.db", tmp_path / "to.db")
    assert not list(tmp_path.iterdir())
