"""Scores and comments on answers: a line in the ledger first, then an assessment on the answer's trace.

The ledger has all of them. A caller waits for the trace for TRACE_WAIT_S at most, even if MLflow is dead or hangs; the
feedback gets there later.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genai_server.errors import StorageFailed
from genai_server.feedback.assessments import Assessments, Entry
from genai_server.feedback.ledger import Ledger
from genai_server.runtime.daemon import PREFIX
from genai_server.runtime.logs import Outage

log = logging.getLogger(__name__)

TRACE, LEDGER = "trace", "ledger"
TRACE_WAIT_S = 1.0  # longest wait of a caller for the trace


class FeedbackKeeper:
    """Stores feedback.

    Args:
        looks_for_traces: whether requests are traced at all.
        experiment: name of the MLflow experiment that the traces are in.
        traces_waiting: how many MLflow does not have yet.
        on_write_failure: called for each line that the disk does not take.
        tracking_uri: of the MLflow that has the traces; None = MLflow's own setting.
    """

    def __init__(
        self, ledger: Path, looks_for_traces: bool, experiment: str,
        traces_waiting: Callable[[], int] = lambda: 0, on_write_failure: Callable[[], object] = lambda: None,
        tracking_uri: str | None = None,
    ):  # fmt: skip
        self._ledger, self._on_write_failure = Ledger(ledger), on_write_failure
        self._assessments = Assessments(experiment, traces_waiting, tracking_uri) if looks_for_traces else None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"{PREFIX}feedback")
        self._outage = Outage(log, "The feedback ledger is written again.")

    async def keep(self, feedback: Mapping[str, Any]) -> str:
        """Where it is now: `ledger`, or `trace` if it is there too. Raises StorageFailed if it is in neither."""
        time_s = time.time()
        line = json.dumps({"time": time_s, **feedback}, ensure_ascii=False).encode("utf-8", "replace")
        is_in_ledger = await asyncio.get_running_loop().run_in_executor(self._disk, self._is_in_ledger, line)
        entry = Entry(hashlib.sha256(line).hexdigest()[:32], int(time_s * 1000), **feedback)
        if await self._is_on_trace(entry):
            return TRACE
        if not is_in_ledger:
            raise StorageFailed("The feedback was not kept: the server cannot write its ledger.", "Send it later.")
        return LEDGER

    def stop(self) -> None:
        """At once: what is not on its trace stays in the ledger."""
        if self._assessments is not None:
            self._assessments.stop()
        self._disk.shutdown(wait=False)

    def _is_in_ledger(self, line: bytes) -> bool:
        try:
            self._ledger.add(line)
        except OSError as exc:
            self._on_write_failure()
            self._outage.begin(f"The feedback ledger {self._ledger.path} cannot be written: {exc.strerror}.")
            return False
        self._outage.end()
        return True

    async def _is_on_trace(self, entry: Entry) -> bool:
        first_try = self._assessments.add(entry) if self._assessments is not None else None
        if first_try is None:
            return False
        try:
            return await asyncio.wait_for(asyncio.wrap_future(first_try), TRACE_WAIT_S)
        except TimeoutError:
            return False
