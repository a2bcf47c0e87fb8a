"""What does not belong into the checkout: stores that MLflow makes where nobody named one."""

from __future__ import annotations

import subprocess

import pytest
from conftest import REPO, STORES_WITHOUT_ADDRESS, stores_in


def git(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["git", "-C", str(REPO), *words], capture_output=True, text=True, check=False)
    if "not a git repository" in done.stderr:
        pytest.skip("this checkout came without its history")
    return done


def test_no_database_is_kept_in_the_repository():
    assert [name for name in git("ls-files").stdout.splitlines() if name.endswith((".db", ".db-wal", ".db-shm"))] == []


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db-wal", "mlruns/0/meta.yaml", "mlartifacts/0"])
def test_a_store_that_is_made_here_all_the_same_is_ignored(name):
    assert git("check-ignore", name).returncode == 0


def test_every_test_is_watched_for_one(tmp_path):
    """By the fixture `no_store_in_the_checkout`, which compares what this gives before and after."""
    before = stores_in(tmp_path)
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlruns").mkdir()
    assert before == set() and {name for name, _ in stores_in(tmp_path)} == {"mlflow.db", "mlruns"}
    assert set(STORES_WITHOUT_ADDRESS) >= {"mlflow.db", "mlruns"}
