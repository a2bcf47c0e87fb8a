"""`mlflow.genai.evaluate` and what it leaves: rows, assessments on traces, datasets, and finding them again."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.errors import ConfigError, TrackingUnavailable
from genai_lifecycle.store import runs
from genai_lifecycle.store.seam import seam
from genai_lifecycle.store.tracking_store import Store
from genai_server.registry.filters import equals

JUDGE_TIMEOUT_S = 60.0
CASE_TAG = "lifecycle.case"  # of a trace: the number of its case
STAGE = runs.EVALUATE
DECISION_FILE = "decision.json"  # what the gate said
# Straight on SQLite several workers wait for each other's locks, and with MLflow's ten a quarter of the rows is lost
# without an error; behind a server a few are faster. A judge is asked by more at once than the database likes.
WORKERS = {"direct": "1", "judged": "4", "server": "4"}


@dataclass(frozen=True)
class Assessment:
    """The result of a check, or a score alone."""

    name: str
    score: float  # 0 to 1 for most; the unit of what was measured for lengths, times and distances
    passed: bool
    why: str
    weight: float = 1.0
    is_check: bool = True  # False: a score alone, which nothing was asked of


@dataclass(frozen=True)
class Row:
    """The scores of one answer, and what its case expected."""

    assessments: Sequence[Assessment]
    expected: Mapping[str, str]  # MLflow's expectations; may be empty


@dataclass(frozen=True)
class EvaluationCounts:
    """What MLflow holds after an evaluation."""

    rows: int
    judge_failures: int  # answers about which a judge's scorer said nothing


def judges(names: Sequence[str], model: str | None) -> list[Any]:
    """MLflow's scorers of these names. Raises ConfigError for one that is unknown or needs what it is not given."""
    return [_judge(name, model) for name in names]


def _judge(name: str, model: str | None) -> Any:
    import mlflow.genai.scorers as scorers

    kind = getattr(scorers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, scorers.Scorer)):
        known = [item for item in dir(scorers) if item[:1].isupper() and item != "Scorer"]
        raise ConfigError(f"MLflow has no scorer {name!r}.", hint=f"It has {', '.join(known)}.")
    asks = "model" in kind.model_fields
    if asks and not model:
        hint = "Give --judge-model, for example openai:/gpt-4o-mini."
        raise ConfigError(f"The scorer {name} needs a judge.", hint=hint)
    try:
        return kind(model=model) if asks else kind()
    except ValueError as exc:  # pydantic's ValidationError is one
        raise ConfigError(f"The scorer {name} needs more than a name; it cannot be used here.") from exc


class JudgeFailed(Exception):
    """A judge gave no answer, or one that is neither yes nor no."""


def try_judge(scorer: Any) -> None:
    """Ask a judge's scorer one question. Raises JudgeFailed.

    On a thread of its own: MLflow asks a judge that is gone again and again for minutes, which cannot be shortened.
    """
    replies: queue.Queue[object] = queue.Queue()

    def ask() -> None:
        try:
            question = {"inputs": {"question": "How much is two and two?"}, "outputs": "Four."}
            replies.put(scorer(**question, expectations={"expected_response": "Four."}).value)
        except Exception as exc:  # noqa: BLE001 - handed on below; a judge's odd answer is a KeyError, a TypeError, ...
            replies.put(exc)

    threading.Thread(target=ask, daemon=True).start()
    try:
        reply = replies.get(timeout=JUDGE_TIMEOUT_S)
    except queue.Empty:
        raise JudgeFailed(f"no answer within {JUDGE_TIMEOUT_S:.0f} s") from None
    if str(reply).lower() not in ("yes", "true", "no", "false"):
        raise JudgeFailed(_described(reply)) from (reply if isinstance(reply, Exception) else None)


def _described(reply: object) -> str:
    """In one line; the bare message of a KeyError would say too little."""
    if isinstance(reply, Exception):
        lines = str(reply).strip().splitlines() or [""]
        return f"{type(reply).__name__}: {lines[0]}"[:200]
    return f"it said {reply!r} instead of yes or no"[:200]


@seam
def evaluate(
    store: Store, run_id: str, rows: Sequence[Row], judged_by: Sequence[Any], advance: Callable[[int], None],
    dataset: str = "cases",
) -> EvaluationCounts:  # fmt: skip
    """Put scores and expectations on the run's traces through `mlflow.genai.evaluate`, and see that none is lost.

    Args:
        rows: in the order of the traces' case numbers; every trace is stored already.
        dataset: what MLflow's UI calls the cases.

    Raises:
        TrackingUnavailable: MLflow did not keep every row.
    """
    import mlflow
    import pandas as pd

    traces = _traces(store, run_id, len(rows))
    data = pd.DataFrame({"trace": traces, "expectations": [dict(row.expected) for row in rows]})
    data.attrs |= _identity(data, dataset)
    workers = WORKERS["judged" if judged_by else "direct" if store.direct else "server"]
    with _settings(workers, bool(judged_by)), _quiet():
        result = mlflow.genai.evaluate(data=data, scorers=[_scorer(rows, advance), *judged_by])
    _require_all(store, run_id, rows)
    silent = _failures(result, [item.name for item in judged_by])
    return EvaluationCounts(len(result.result_df), silent)


def _identity(data: Any, name: str) -> dict[str, Any]:
    """By this MLflow knows a frame that comes from a dataset; every other one it calls "dataset"."""
    from mlflow.genai.datasets.evaluation_dataset import compute_records_sha256
    from mlflow.utils.mlflow_tags import MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY

    of_dataset = {"name": name, "digest": name.rpartition("-")[2], "source_type": "local", "source": "{}"}
    return {MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY: of_dataset | {"records_sha256": compute_records_sha256(data)}}


def _traces(store: Store, run_id: str, expected: int) -> list[Any]:
    import mlflow

    found = mlflow.search_traces(locations=[store.experiment_id], run_id=run_id, return_type="list")
    if len(found) != expected:
        raise _lost(len(found), expected)
    return sorted(found, key=lambda trace: int(trace.info.tags[CASE_TAG]))


def _lost(found: int, expected: int) -> TrackingUnavailable:
    return TrackingUnavailable(
        f"MLflow stored {found} of {expected} rows.",
        hint="Run the same command again: answers that were computed are used again. --verbose shows what MLflow said.",
    )


def _scorer(rows: Sequence[Row], advance: Callable[[int], None]) -> Any:
    """MLflow's scorer that hands out what was computed before; one for all scores, so that a row takes one thread."""
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.genai.scorers import scorer

    source = AssessmentSource(source_type="CODE", source_id="genai_lifecycle.evaluation")

    @scorer(name="scores")
    def scores(trace):
        row = rows[int(trace.info.tags[CASE_TAG])]
        advance(1)
        return [_feedback(Feedback, item, source) for item in row.assessments]

    return scores


def _feedback(kind: Any, item: Assessment, source: Any) -> Any:
    value = item.passed if item.is_check else item.score
    return kind(name=item.name, value=value, rationale=item.why or None, source=source)


@contextlib.contextmanager
def _settings(workers: str, judged: bool) -> Iterator[None]:
    """MLflow's own variables for the length of an evaluation; one that the user has set stays as it is."""
    wanted = {"MLFLOW_GENAI_EVAL_MAX_WORKERS": workers}
    if not judged:  # its default limits scorers to 10 rows a second, for the sake of a judge behind a network
        wanted |= {"MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0", "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT": "0"}
    missing = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's bar and its advertisement; what it logs is heard as ever."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _require_all(store: Store, run_id: str, rows: Sequence[Row]) -> None:
    """Every row has its trace, and every trace all its scores, in the store itself."""
    import mlflow

    found = mlflow.search_traces(
        locations=[store.experiment_id], run_id=run_id, return_type="list", include_spans=False
    )
    whole = 0
    for trace in found:
        names = {item.name for item in rows[int(trace.info.tags[CASE_TAG])].assessments}
        whole += names <= {item.name for item in trace.info.assessments}
    if whole != len(rows):
        raise _lost(whole, len(rows))


def _failures(result: Any, names: Sequence[str]) -> int:
    columns = [f"{name}/error_message" for name in names]
    return int(sum(result.result_df[name].notna().sum() for name in columns if name in result.result_df))


# --- datasets -------------------------------------------------------------------------------------


@seam
def register_dataset(experiments: Sequence[str], name: str, records: Sequence[Mapping[str, Any]]) -> str | None:
    """Register cases as an evaluation dataset of the experiments, once; None where the backend keeps none.

    Args:
        experiments: their ids.
        records: with `inputs` and perhaps `expectations`.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.genai import datasets

    try:
        found = [item for item in datasets.search_datasets(filter_string=equals("name", name)) if item.name == name]
        if not found:
            made = datasets.create_dataset(name=name, experiment_id=list(experiments))
            made.merge_records([dict(record) for record in records])
        elif missing := [place for place in experiments if place not in found[0].experiment_ids]:
            datasets.add_dataset_to_experiments(found[0].dataset_id, missing)
    except MlflowException as exc:
        if exc.error_code in ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"):
            return None
        raise
    return name


_SAME = ("cases_sha256", "model_name", "model_version", "max_new_tokens", "temperature", "seed")


@seam
def evaluations_of(prompt: str, like: Mapping[str, str] | None = None) -> list[tuple[str, Mapping[str, str]]]:
    """(run id, params) of the finished evaluations of a prompt version, newest first, in every experiment.

    Args:
        prompt: as name/version.
        like: params of another evaluation; only those with the same cases, model and parameters are found.
    """
    import mlflow

    client = mlflow.MlflowClient()
    wanted = {"prompt": prompt} | ({name: like[name] for name in _SAME} if like else {})
    same = " and ".join(equals(f"params.{name}", value) for name, value in wanted.items())
    found = client.search_runs(
        [item.experiment_id for item in client.search_experiments()],
        filter_string=f"tags.`{runs.STAGE_TAG}` = '{STAGE}' and {same} and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=20,
    )
    return [(item.info.run_id, item.data.params) for item in found if wanted.items() <= item.data.params.items()]


@seam
def attach_decision(run_id: str, record: Mapping[str, Any]) -> None:
    """The gate's decision as `decision.json` of a run that has ended."""
    import mlflow

    mlflow.MlflowClient().log_dict(run_id, dict(record), DECISION_FILE)
