"""Mode relocate: a deployed store really moves, and its version loads from the new place."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass, replace

import pytest
from cli_process import run_cli

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import Busy, ConfigError, NotFound
from genai_lifecycle.runtime.s3_address import S3Root
from genai_lifecycle.stages.relocate import RelocateSettings, Relocation, relocate
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.maintenance import locations
from genai_lifecycle.store.store_lock import only_run_on
from genai_lifecycle.store.tracking_store import open_store


@dataclass(frozen=True)
class Moved:
    """A store whose artifacts have moved."""

    config: E2EConfig
    old: str
    new: str

    def relocate(self, **given) -> Relocation:
        settings = RelocateSettings(**{"move_from": self.old, "move_to": self.new} | given)
        return relocate(self.config, settings)


@pytest.fixture
def moved(life, deployed, tmp_path):
    """After the deployed store's artifacts have moved; they go back at the end."""
    file = tmp_path / "db" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(life.store.uri.removeprefix("sqlite:///"), file)
    old, new = life.config.data_dir, tmp_path / "new place"
    shutil.move(old, new)
    uri = f"sqlite:///{file}?timeout=9"
    config = replace(
        life.config, tracking_uri=uri, backend_store_uri=uri, data_dir=str(new), staging_dir=tmp_path / "staging"
    )
    yield Moved(config, old, str(new))
    shutil.move(new, old)


def content(moved) -> bytes:
    return locations.sqlite_file(moved.config.database_uri).read_bytes()


def backups(moved) -> list:
    return list(locations.sqlite_file(moved.config.database_uri).parent.glob("*.backup"))


def test_the_version_loads_from_the_new_place(moved, deployed):
    import mlflow

    mlflow.set_tracking_uri(moved.config.tracking_uri)
    mlflow.set_registry_uri(moved.config.tracking_uri)
    uri = f"models:/{deployed.name}/{deployed.version}"
    with pytest.raises(NotFound):
        model_registry.load(uri)
    result = moved.relocate(apply=True)
    assert result.changed == sum(item.rows for item in result.columns) > 10
    assert {item.column for item in result.columns} >= {"runs.artifact_uri", "trace_tags.value"}
    assert open_store(moved.config).artifact_root.startswith(moved.new)
    answers = model_registry.load(uri).predict({"question": ["What is MLflow?"]})
    assert answers[0]["answer"]


@pytest.mark.s3
def test_the_version_loads_from_a_bucket_that_the_files_were_copied_to(moved, deployed, s3_store, monkeypatch):
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from genai_lifecycle.store.s3.preflight import open_root

    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    root = S3Root("moved-here", "team/a")
    open_root(root, s3_store.url, None, None, writes=True)
    get_artifact_repository(str(root)).log_artifacts(moved.new)
    config = replace(moved.config, data_dir=str(root), s3_endpoint_url=s3_store.url)
    there = replace(moved, config=config, new=str(root))
    with pytest.raises(NotFound, match="models are not at the new place"):
        there.relocate(move_to=f"{root}/deeper", apply=True)
    assert there.relocate(apply=True).changed > 10
    assert open_store(config).artifact_root == f"{root}/{config.experiment_name}"
    answers = model_registry.load(f"models:/{deployed.name}/{deployed.version}").predict(
        {"question": ["What is MLflow?"]}
    )
    assert answers[0]["answer"]


def test_without_apply_nothing_changes(moved):
    before = content(moved)
    result = moved.relocate()
    assert result.changed == 0 and result.backup is None and sum(item.rows for item in result.columns) > 10
    assert content(moved) == before and not backups(moved)


def test_a_second_time_finds_nothing_and_copies_nothing(moved):
    first = moved.relocate(apply=True)
    assert first.changed and len(backups(moved)) == 1
    assert moved.relocate(apply=True).columns == ()
    assert len(backups(moved)) == 1


def test_killed_in_the_middle_it_changes_nothing_and_the_same_command_goes_on(moved, tmp_path):
    given = [
        "--mode", "relocate", "--from", moved.old, "--to", moved.new,
        "--backend-store-uri", moved.config.backend_store_uri, "--apply",
    ]  # fmt: skip
    rows = sum(item.rows for item in moved.relocate().columns)
    killed = run_cli(given, killed_at=("genai_lifecycle.store.maintenance.locations._update", 8))
    assert killed.returncode == -9
    assert sum(item.rows for item in moved.relocate().columns) == rows
    done = run_cli(given)
    assert done.returncode == 0, done.stderr
    assert f"{rows} addresses were rewritten" in done.stdout and moved.relocate().columns == ()


def test_it_refuses_when_the_files_are_not_at_the_new_place(moved, tmp_path):
    before = content(moved)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="models are not at the new place"):
        moved.relocate(move_to=str(tmp_path / "empty"), apply=True)
    with pytest.raises(NotFound, match="There is no folder"):
        moved.relocate(move_to=str(tmp_path / "nowhere"), apply=True)
    assert content(moved) == before and not backups(moved)


def test_what_is_missing_may_be_left_behind_and_says_what_is_missing(moved, tmp_path):
    (tmp_path / "empty").mkdir()
    result = moved.relocate(move_to=str(tmp_path / "empty"), apply=True, allow_missing=True)
    with sqlite3.connect(locations.sqlite_file(moved.config.database_uri)) as database:
        (models,) = database.execute("SELECT count(*) FROM logged_models").fetchone()  # of every test of the life
    assert result.changed and len(result.missing) == models > 0


def test_it_waits_for_no_other_run(moved):
    with only_run_on(moved.config.database_uri), pytest.raises(Busy):
        moved.relocate(apply=True)
    assert not backups(moved)


def test_a_server_is_refused_with_what_to_do(make_config):
    with pytest.raises(ConfigError, match="a server in front") as refused:
        relocate(make_config(tracking_uri="http://127.0.0.1:5050"), RelocateSettings(move_from="/a", move_to="/b"))
    assert "--backend-store-uri" in refused.value.hint


@pytest.mark.parametrize(("old", "new"), [(None, "/b"), ("/a", None), ("/a", "/a/"), ("/a/./b", "/a/b")])
def test_the_places_must_be_two(make_config, old, new):
    with pytest.raises(ConfigError):
        relocate(make_config(), RelocateSettings(move_from=old, move_to=new))


@pytest.mark.parametrize("place", ["/", "..", "gs://bucket/x", "https://me:secret@host/x"])
def test_a_place_that_cannot_be_meant_is_refused(place):
    with pytest.raises(ConfigError, match="--from") as refused:
        RelocateSettings(move_from=place, move_to="/b")
    assert "secret" not in str(refused.value)
