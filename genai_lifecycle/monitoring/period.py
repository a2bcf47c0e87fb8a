"""Reading what the servers traced in a period, page by page, newest first."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genai_lifecycle.monitoring.request_table import request_table
from genai_lifecycle.monitoring.rules import Rules
from genai_lifecycle.runtime import progress
from genai_lifecycle.store import served

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_REQUESTS = 200_000  # about 60 MB; of more, the newest are taken
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Period:
    """The requests of a period, and what they do not have."""

    start_ms: int  # Unix time
    end_ms: int
    requests: DataFrame
    notes: tuple[str, ...]  # sentences


def read_period(experiment_name: str, start_ms: int, end_ms: int, rules: Rules) -> Period:
    """The requests from `start_ms` to before `end_ms` that the servers traced into the experiment."""
    import pandas as pd

    experiment = served.experiment_id(experiment_name)
    tables = [request_table([], rules), *(_tables(experiment, start_ms, end_ms, rules) if experiment else [])]
    requests = pd.concat(tables, ignore_index=True)
    return Period(start_ms, end_ms, requests[:MOST_REQUESTS], _notes(experiment_name, requests))


def _tables(experiment: str, start_ms: int, end_ms: int, rules: Rules) -> list[DataFrame]:
    """A table for each page. Progress is in hours: how many requests there are is not known before they are read."""
    tables: list[DataFrame] = []
    hours, hours_read = (end_ms - start_ms) // _HOUR_MS, 0
    with (
        progress.steps("Reading traces, hours", hours) as advance,
        closing(served.pages(experiment, start_ms, end_ms)) as pages,
    ):
        for page in pages:
            tables.append(request_table(page, rules))
            reached = max([hours_read, *((end_ms - item.start_ms) // _HOUR_MS for item in page[-1:])])
            advance(reached - hours_read)
            hours_read = reached
            if sum(map(len, tables)) >= MOST_REQUESTS:
                break
        advance(max(0, hours - hours_read))
    return tables


def _notes(experiment_name: str, requests: DataFrame) -> tuple[str, ...]:
    if requests.empty:
        return (
            f"the experiment '{experiment_name}' has no request of this period: a server traces a share of them"
            " when it is started with MLFLOW_TRACE_SAMPLING_RATIO above 0 (its TRACE_EXPERIMENT is"
            " --serving-experiment here)",
        )
    notes = []
    if len(requests) >= MOST_REQUESTS:
        notes.append(f"only the newest {MOST_REQUESTS:,} requests were read; ask for fewer --days")
    if requests["repetition"].isna().all():
        notes.append("repetition and declined_share need the answers' texts: start the server with TRACE_TEXTS=true")
    if not requests[["opinions", "comments"]].any(axis=None):
        notes.append("there is no feedback on these requests; --mode import-feedback brings a server's ledger in")
    return tuple(notes)
