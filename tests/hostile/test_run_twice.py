"""`--mode all` again and again: the bundle is the new champion's each time, also after a kill amid the export."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from cli_process import run_cli
from conftest import make_cases

pytestmark = pytest.mark.slow


class Life:
    """One store and one place for the bundle."""

    def __init__(self, base: Path, model: Path):
        self.bundle = base / "place" / "bundle"
        self.flags = [
            "--model", str(model), "--cases", str(make_cases(base / "cases.jsonl")), "--precision", "fp32",
            "--tracking-uri", f"sqlite:///{base / 'mlflow.db'}", "--data-dir", str(base / "artifacts"),
            "--output-dir", str(self.bundle), "--max-new-tokens", "24",
        ]  # fmt: skip

    def run(self, *more: str, killed_at: tuple[str, int] | None = None):
        return run_cli(["--mode", "all", *self.flags, *more], killed_at=killed_at)

    def exported(self) -> tuple[str, str]:
        model = json.loads((self.bundle / "manifest.json").read_text("utf-8"))["model"]
        return model["version"], model["alias"]


@pytest.fixture(scope="module")
def life(tmp_path_factory, lessons_gpt2):
    return Life(tmp_path_factory.mktemp("life"), lessons_gpt2)


def test_twice_leaves_the_new_champions_bundle_and_asks_for_no_flag(life):
    for version in ("1", "2"):
        done = life.run()
        assert done.returncode == 0, done.stderr
        assert life.exported() == (version, "champion")
        assert f"version {version} is champion" in done.stdout
        assert "bundle    cd " in done.stdout and "--overwrite" not in done.stdout + done.stderr


def test_the_same_command_works_after_a_kill_in_the_middle_of_the_export(life):
    """Every other moment is in tests/genai_lifecycle/test_bundle.py."""
    before = life.exported()
    done = life.run(killed_at=("genai_lifecycle.models.bundle._put_in_place", 1))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(life.bundle.parent.iterdir())) == 2, "the bundle, and what the kill left"
    assert life.exported() == before
    done = life.run()
    assert done.returncode == 0, done.stderr
    assert life.exported() == (str(int(before[0]) + 2), "champion")
    assert [path.name for path in life.bundle.parent.iterdir()] == ["bundle"]


def test_a_bundle_that_somebody_changed_is_told_before_anything_is_computed(life):
    before = life.exported()
    (life.bundle / ".env").write_text("API_KEYS=secret")
    done = life.run()
    assert (done.returncode, done.stdout) == (5, "")
    assert "was changed since it was written: .env was added." in done.stderr and "--overwrite" in done.stderr
    assert life.exported() == before and (life.bundle / ".env").exists()
    done = life.run("--overwrite")
    assert done.returncode == 0, done.stderr
    assert life.exported() == (str(int(before[0]) + 1), "champion") and not (life.bundle / ".env").exists()
