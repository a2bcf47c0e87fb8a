"""Schemathesis over our OpenAPI document, all checks: no 5xx, and no response that breaks what the document says.

FUZZ_EXAMPLES is the number for each operation; `make fuzz` takes enough for 2,000 and more, and tries every bound of
every field too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import listening

from genai_server.answering.model_loader import load_from_mlflow
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.settings import ServerSettings

pytestmark = pytest.mark.slow


EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "")
PHASES = "examples,coverage,fuzzing" if EXAMPLES else "fuzzing"
CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "secret-key-1"


@pytest.fixture(scope="module")
def url(tmp_path_factory, saved_tiny) -> Iterator[str]:
    """A server with a real packaged model and an admin key, so that every route is open to it."""
    base, folder = tmp_path_factory.mktemp("fuzz"), saved_tiny
    loaded: list[LoadedModel] = []

    def load(uri: str, tracking_uri: str | None) -> LoadedModel:
        """The same model at every reload; any other address is looked for."""
        if uri != str(folder) or not loaded:
            loaded.append(load_from_mlflow(uri, tracking_uri))
            loaded[-1].answerer.close = lambda: None
        return loaded[0]

    settings = ServerSettings(
        model_uri=str(folder), admin_keys=(KEY,), request_timeout_s=0.3, feedback_file=str(base / "feedback.jsonl")
    )
    with listening(create_app(settings, load), ready_within_s=120) as url:
        yield url


def test_every_answer_is_one_that_the_document_names(url, tmp_path):
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG),
        "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {KEY}",
        "--phases", PHASES, "--max-examples", EXAMPLES or "10", "--generation-database", "none",
        "--request-timeout", "60", "--no-color", *([] if EXAMPLES else ["--seed", "1"]),
    ]  # fmt: skip
    environment = os.environ | {"SCHEMATHESIS_HOOKS": str(CONFIG.with_name("schemathesis_hooks.py"))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    sys.stdout.write(done.stdout)  # how many were tried, in the output of `make fuzz`
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    tried = [int(number) for number in re.findall(r"(\d+) generated", done.stdout)]
    assert tried and tried[0] > 100, done.stdout[-2000:]
