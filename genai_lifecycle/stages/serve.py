"""Stage `serve`: the exact serving commands; with `--start`, the server itself."""

from __future__ import annotations

import shlex

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.results import ServePlan
from genai_lifecycle.tracking import model_registry
from genai_lifecycle.tracking.store import Store

DEFAULT_PORT = 5001


def serve_plan(config: E2EConfig, store: Store) -> ServePlan:
    """The commands that serve the champion (the candidate, where nothing has passed a test yet).

    Raises:
        NotFound: nothing was deployed yet.
    """
    name = config.registered_model_name
    champion = model_registry.by_alias(name, model_registry.CHAMPION)
    alias = model_registry.CHAMPION if champion else model_registry.CANDIDATE
    if champion is None:
        model_registry.candidate(name)
    model_uri, port = f"models:/{name}@{alias}", config.port or DEFAULT_PORT
    tracking = f"MLFLOW_TRACKING_URI={shlex.quote(store.uri)}"
    ask = """-H 'Content-Type: application/json' -d '{"question": "What is MLflow?"}'"""
    invoke = """-H 'Content-Type: application/json' -d '{"inputs": ["What is MLflow?"]}'"""
    return ServePlan(
        model_uri=model_uri,
        commands=(
            (
                "our server, Swagger at /docs",
                f"{tracking} MLFLOW_MODEL_URI={model_uri} PORT={port} python fastapi_server.py",
            ),
            ("the same, watched and restarted", "python e2e_mlflow.py --mode serve --start"),
            ("ask it", f"curl http://127.0.0.1:{port}/ask {ask}"),
            ("MLflow's own server", f"{tracking} mlflow models serve -m {model_uri} -p {port} --env-manager local"),
            ("ask that one", f"curl http://127.0.0.1:{port}/invocations {invoke}"),
        ),
    )
