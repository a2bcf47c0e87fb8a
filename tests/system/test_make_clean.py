"""`make clean` deletes scratch files, and nothing that a person would miss."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

from conftest import REPO

from genai_server.settings import ServerSettings
from genai_server.tracing.spool import Spool

FORMER = ("feedback.jsonl", "feedback.jsonl.1", "traces-0123456789ab.db", "traces-0123456789ab.db-wal")


def test_feedback_and_unsent_traces_survive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPO / "Makefile", tmp_path)
    settings = ServerSettings()
    settings.spool_file.parent.mkdir()
    with closing(Spool(settings.spool_file)) as spool:
        spool.put(["unsent"])
    for file in (settings.feedback_file, f"{settings.feedback_file}.1", settings.prompt_file):
        Path(file).write_text("kept")
    for file in (*FORMER, "last_run.json", "monitor.md", "prompt.json"):
        (tmp_path / "local_staging").mkdir(exist_ok=True)
        (tmp_path / "local_staging" / file).write_text("of an earlier version")
    (tmp_path / "local_staging" / "scratch-deploy-1" / "files").mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert Spool(settings.spool_file).first(9) == {1: "unsent"}
    assert all(Path(f).read_text() == "kept" for f in (settings.feedback_file, settings.prompt_file))
    # until the next start of the server takes them over
    assert sorted(path.name for path in (tmp_path / "local_staging").iterdir()) == sorted(FORMER)


def test_it_does_not_mind_that_there_is_nothing(tmp_path):
    shutil.copy(REPO / "Makefile", tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
