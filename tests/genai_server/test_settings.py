"""The server's settings: from the environment, each wrong value named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPO, free_port

from genai_server.errors import SettingsError
from genai_server.settings import ServerSettings


def test_defaults_and_environment():
    assert ServerSettings.from_env({}) == ServerSettings()
    given = ServerSettings.from_env(
        {"PORT": "8000", "HOST": "0.0.0.0", "MLFLOW_MODEL_URI": "models:/m/1", "GRACE_S": ""}
    )
    assert (given.port, given.host, given.model_uri, given.grace_s) == (8000, "0.0.0.0", "models:/m/1", 30.0)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PORT": "eighty"}, "PORT='eighty' is not a whole number."),
        ({"PORT": "0"}, "PORT is 0"),
        ({"GRACE_S": "-1"}, "GRACE_S is -1"),
        ({"QUEUE_LIMIT": "x"}, "QUEUE_LIMIT='x'"),
        ({"REQUEST_TIMEOUT_S": "0"}, "REQUEST_TIMEOUT_S is 0"),
        ({"QUEUE_LIMIT": "0"}, "QUEUE_LIMIT is 0"),
    ],
)
def test_a_wrong_value_stops_the_start_with_its_name(env, said):
    with pytest.raises(SettingsError, match=said.replace("(", "[(]")):
        ServerSettings.from_env(env)


def start(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "fastapi_server.py"], cwd=REPO, env=os.environ | environment, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def test_the_process_ends_with_a_sentence_and_not_a_traceback(tmp_path):
    wrong = start(PORT="eighty")
    assert (wrong.returncode, wrong.stderr) == (2, "Error: PORT='eighty' is not a whole number.\n")
    missing = start(PORT=str(free_port()), MLFLOW_MODEL_URI=str(tmp_path / "nowhere"))
    assert missing.returncode == 4, missing.stderr
    assert "Error: " in missing.stderr and "Traceback" not in missing.stderr
