"""Scores and comments on answers: an assessment on the answer's trace, or a line in a local ledger.

The ledger keeps what reached no trace: the request was not sampled, or MLflow did not answer in time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

log = logging.getLogger(__name__)

TRACE, LEDGER = "trace", "ledger"
MLFLOW_TIMEOUT_S = 3.0
LEDGER_LIMIT_BYTES = 10_000_000  # then it is renamed to *.1, in place of the one before


class FeedbackKeeper:
    """Keeps feedback in one of two places.

    Args:
        looks_for_traces: whether requests are traced at all.
        experiment: name of the MLflow experiment that the traces are in.
    """

    def __init__(self, ledger: Path, looks_for_traces: bool, experiment: str):
        self._ledger, self._looks, self._experiment = ledger, looks_for_traces, experiment
        self._lock = threading.Lock()

    async def keep(self, feedback: Mapping[str, Any]) -> str:
        """`trace` or `ledger`, wherever it is now."""
        if self._looks:
            try:
                found = await asyncio.wait_for(asyncio.to_thread(self._on_trace, feedback), MLFLOW_TIMEOUT_S)
                if found:
                    return TRACE
            except (MlflowException, OSError, TimeoutError) as exc:
                log.warning("feedback goes into the ledger: %s", type(exc).__name__)
        await asyncio.to_thread(self._to_ledger, feedback)
        return LEDGER

    def _on_trace(self, feedback: Mapping[str, Any]) -> bool:
        """Attach it to the trace that has the request's id as a tag; False where there is none."""
        import mlflow
        from mlflow.entities import AssessmentSource

        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return False
        wanted = f"tags.request_id = '{_quotable(feedback['request_id'])}'"
        traces = client.search_traces(
            locations=[experiment.experiment_id], filter_string=wanted, max_results=1, include_spans=False
        )
        if not traces:
            return False
        source = AssessmentSource(source_type="HUMAN", source_id=feedback["source"])
        mlflow.log_feedback(
            trace_id=traces[0].info.trace_id, name=feedback["name"], value=feedback["value"],
            rationale=feedback["comment"], source=source,
        )  # fmt: skip
        return True

    def _to_ledger(self, feedback: Mapping[str, Any]) -> None:
        line = json.dumps({"time": time.time(), **feedback}, ensure_ascii=False)
        with self._lock:
            self._ledger.parent.mkdir(parents=True, exist_ok=True)
            if self._ledger.exists() and self._ledger.stat().st_size > LEDGER_LIMIT_BYTES:
                os.replace(self._ledger, self._ledger.with_name(f"{self._ledger.name}.1"))
            with self._ledger.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def _quotable(request_id: str) -> str:
    """MLflow's filter has no escape for a quote; our own ids have none, and another id is not found."""
    return request_id.replace("'", "")
