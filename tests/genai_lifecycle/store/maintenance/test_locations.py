"""Addresses in MLflow's own tables: which ones count as below a place, and that they change together or not at all."""

from __future__ import annotations

import sqlite3

import pytest

from genai_lifecycle.errors import Busy, LifecycleError, NotFound
from genai_lifecycle.store.maintenance import locations


@pytest.fixture
def database(store):
    return store.uri


def make_experiments(*addresses: str) -> None:
    import mlflow

    for number, address in enumerate(addresses):
        mlflow.create_experiment(f"made {number}", artifact_location=address)


def addresses(uri: str) -> list[str]:
    with sqlite3.connect(locations.sqlite_file(uri)) as connection:
        said = "SELECT artifact_location FROM experiments WHERE name LIKE 'made %' ORDER BY name"
        return [row[0] for row in connection.execute(said)]


def move(uri: str, old: str, new: str) -> int:
    with locations.opened(uri) as found:
        return found.rewrite(locations.prefixes(old, new))


def test_only_whole_path_prefixes_move(database):
    make_experiments("/a/b", "/a/b/x", "/a/bc/x", "/z/a/b/x", "s3://a/b/x")
    assert move(database, "/a/b", "/new place") == 2
    assert addresses(database) == ["/new place", "/new place/x", "/a/bc/x", "/z/a/b/x", "s3://a/b/x"]


def test_a_percent_sign_or_an_underscore_is_no_wildcard(database):
    make_experiments("/a_b/x", "/aXb/x", "/a%b/x", "/aYb/x")
    assert move(database, "/a_b", "/n") + move(database, "/a%b", "/m") == 2
    assert addresses(database) == ["/n/x", "/aXb/x", "/m/x", "/aYb/x"]


def test_file_addresses_keep_their_form(database):
    make_experiments("file:///a/b%20c/x", "file:/a/b%20c/y", "/a/b c/z")
    assert move(database, "/a/b c", "/new/ö") == 3
    assert addresses(database) == ["file:///new/%C3%B6/x", "file:/new/%C3%B6/y", "/new/ö/z"]


def test_from_a_folder_into_a_bucket_and_between_buckets(database):
    make_experiments("/a/b/x", "file:///a/b/y", "s3://bucket/b/z", "s3://bucket2/b/z")
    assert move(database, "/a/b", "s3://bucket/c") == 2
    assert move(database, "s3://bucket", "s3://other/prefix") == 3
    assert addresses(database) == [
        "s3://other/prefix/c/x", "s3://other/prefix/c/y", "s3://other/prefix/b/z", "s3://bucket2/b/z"
    ]  # fmt: skip


def test_a_second_time_changes_nothing_even_into_a_folder_below(database):
    make_experiments("/a/x")
    assert [move(database, "/a", "/a/b"), move(database, "/a", "/a/b")] == [1, 0]
    assert addresses(database) == ["/a/b/x"]


def test_every_column_with_an_absolute_address_is_known(database, make_config):
    """Of a filled store: nothing that MLflow writes below the artifact root stays behind."""
    import mlflow

    root = make_config().data_dir
    with mlflow.start_run() as run:
        mlflow.log_text("x", "x.txt")
        mlflow.start_span_no_context("answer").end()
    client = mlflow.MlflowClient()
    client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.info.artifact_uri}/x.txt", run.info.run_id)
    mlflow.flush_trace_async_logging()
    assert left(database, root) > 4
    move(database, root, "/new")
    assert left(database, root) == 0


def left(uri: str, root: str) -> int:
    """How many values of the whole database have the root in them."""
    with sqlite3.connect(locations.sqlite_file(uri)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in connection.execute(f'PRAGMA table_info("{table}")')]
        counts = [f'SELECT count(*) FROM "{table}" WHERE instr("{column}", ?)' for table, column in columns]
        return sum(connection.execute(said, (root,)).fetchone()[0] for said in counts)


def test_an_error_in_the_block_takes_everything_back(database):
    make_experiments("/a/b/x")
    with pytest.raises(LifecycleError), locations.opened(database) as found:
        assert found.rewrite(locations.prefixes("/a/b", "/new")) == 1
        raise LifecycleError("something else is wrong")
    assert addresses(database) == ["/a/b/x"]


def test_a_database_that_another_program_writes_to_is_left_alone(database, monkeypatch):
    monkeypatch.setattr(locations, "LOCK_PATIENCE_S", 0.2)
    make_experiments("/a/b/x")
    other = sqlite3.connect(locations.sqlite_file(database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy, match="Another program writes"):
        move(database, "/a/b", "/new")
    other.close()
    assert addresses(database) == ["/a/b/x"]


def test_the_copy_is_a_whole_database(database):
    make_experiments("/a/b/x")
    copy = locations.back_up(database)
    move(database, "/a/b", "/new")
    assert addresses(f"sqlite:///{copy}") == ["/a/b/x"]
    assert not list(copy.parent.glob(".*.part"))


def test_no_database_and_another_one_are_told_apart(tmp_path):
    with pytest.raises(NotFound, match="There is no database"), locations.opened(f"sqlite:///{tmp_path / 'no.db'}"):
        pass
    assert not (tmp_path / "no.db").exists()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)")
    with pytest.raises(NotFound, match="not a database of MLflow"):
        move(f"sqlite:///{tmp_path / 'other.db'}", "/a", "/b")
    (tmp_path / "text.db").write_text("this is no SQLite file, but long enough to be taken for one" * 50)
    with pytest.raises(LifecycleError, match="file is not a database"):
        move(f"sqlite:///{tmp_path / 'text.db'}", "/a", "/b")
