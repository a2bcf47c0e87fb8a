"""Evidence: the scores of every case, as an artifact of the evaluation's run, and finding them again for the gate."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.store import runs
from genai_lifecycle.store.evaluations import evaluations_of

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Evidence:
    """What an evaluation found out about one version."""

    subject: str  # for example qa/2
    cases_sha256: str  # two versions are compared over the same cases only
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of each metric, one for each case
    latencies_ms: tuple[float, ...] = ()


def write_scores(folder: Path, evidence: Evidence) -> None:
    """The scores of every case as a file, for whoever compares later."""
    record = {"subject": evidence.subject, "cases_sha256": evidence.cases_sha256,
              "scores": {name: list(values) for name, values in evidence.scores.items()},
              "latencies_ms": list(evidence.latencies_ms)}  # fmt: skip
    (folder / SCORES_FILE).write_text(json.dumps(record), "utf-8")


def read_scores(run_id: str) -> Evidence | None:
    """What `write_scores` wrote, as an artifact of a run; None where the run has none.

    Raises:
        StorageFailed: the run's artifacts are out of reach, perhaps below another root than this run's.
    """
    try:
        return _read_scores(run_id)
    except StorageFailed as exc:
        message = f"{exc.args[0]} The scores of run {run_id}, to compare with, are there."
        raise StorageFailed(message, hint=exc.hint) from exc


def _read_scores(run_id: str) -> Evidence | None:
    if SCORES_FILE not in runs.files_of(run_id):
        return None
    with tempfile.TemporaryDirectory() as folder:
        record = json.loads(runs.download(run_id, SCORES_FILE, Path(folder)).read_text("utf-8"))
    scores = {name: tuple(values) for name, values in record["scores"].items()}
    return Evidence(record["subject"], record["cases_sha256"], scores, tuple(record["latencies_ms"]))


class StoredEvidence:
    """Finds what earlier evaluations say of prompt versions, for the gate.

    The second version that is asked for is taken from an evaluation like the first one's (same cases, model and
    parameters), where there is one.
    """

    def __init__(self) -> None:
        self._like: Mapping[str, str] | None = None

    def __call__(self, subject: str) -> Evidence | None:
        """The newest that is known about NAME/VERSION, or None."""
        found = (self._like and evaluations_of(subject, self._like)) or evaluations_of(subject)
        if not found:
            return None
        run_id, params = found[0]
        self._like = self._like or params
        return read_scores(run_id)
