"""The script is the mode `export`, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPO

pytestmark = pytest.mark.slow


SCRIPT = REPO / "demo_serving" / "scripts" / "export_model_docker.py"


def run(folder, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "LIFECYCLE_DATA_DIR": str(folder / "artifacts")
    }  # fmt: skip
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_runs_the_export_with_its_exit_code(tmp_path):
    done = run(tmp_path, "--model-uri", "models:/never-deployed/1", "--output-dir", "out")
    assert done.returncode == 4, done.stderr
    assert "Error: There is no version 1 of 'never-deployed'." in done.stderr and "Traceback" not in done.stderr


def test_it_takes_every_flag_that_the_guide_names_and_prints_no_key(tmp_path):
    done = run(
        tmp_path, "--mode", "export", "--model-uri", "here", "--output-dir", "out", "--overwrite", "--wheels",
        "--s3-endpoint-url", "http://127.0.0.1:9", "--s3-access-key", "our-key", "--s3-secret-key", "our-secret",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--model-uri is 'here'" in done.stderr and "our-" not in done.stdout + done.stderr
