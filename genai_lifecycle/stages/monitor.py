"""Stage `monitor`: the servers' traces of the last days as figures, limits, and drift from the evaluation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from genai_lifecycle.config import DATA_ROOT, E2EConfig, settings_file
from genai_lifecycle.monitoring import measures, report
from genai_lifecycle.monitoring.drift import Sample, find_drift
from genai_lifecycle.monitoring.records import Answer, Group, Request, answer_of, request_of
from genai_lifecycle.monitoring.report import MonitorReport
from genai_lifecycle.monitoring.rules import Rules, load_rules
from genai_lifecycle.runtime import progress
from genai_lifecycle.runtime.atomic_write import write_whole
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import runs, served
from genai_lifecycle.store.tracking_store import Store

STAGE = "monitor"
MOST_REQUESTS = 200_000  # about 60 MB; of more, the newest are taken
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_REPORT_LINK = "![volume and latency](daily.png)\n\n"  # the plots are in the run


@dataclass(frozen=True)
class MonitorSettings(Settings):
    """Which days, against which limits."""

    days: int = setting(7, "how many days back", metavar="N", limits=(1, 3650))
    limits: Path = setting(settings_file("monitor.yaml"), "the limits of a period", metavar="FILE")
    report: Path = setting(
        DATA_ROOT / "local_staging" / "monitor.md", "a copy of the report, which the run keeps", metavar="FILE"
    )


@dataclass(frozen=True)
class Period:
    """The requests of the last days, newest first."""

    start_ms: int
    end_ms: int
    requests: Sequence[Request]
    notes: tuple[str, ...]


def run_monitor(config: E2EConfig, store: Store, settings: MonitorSettings, now_ms: int | None = None) -> MonitorReport:
    """Report on the last days, as an MLflow run and as the file `settings.report`.

    A limit that was crossed stands in the report; who asked for it decides what to do.

    Args:
        now_ms: end of the period as Unix time; None = now.

    Raises:
        ConfigError: monitor.yaml has something wrong in it.
        StorageFailed: the file cannot be written.
    """
    rules = load_rules(settings.limits)
    period = _read(config, settings, rules, now_ms if now_ms is not None else int(time.time() * 1000))
    with runs.run(STAGE, STAGE) as run_id:
        compared, notes = _compared(period, rules)
        result = _conclude(config, settings, rules, period, compared, notes, run_id)
        _log(config, settings, result, period, compared)
    return result


# --- reading --------------------------------------------------------------------------------------


def _read(config: E2EConfig, settings: MonitorSettings, rules: Rules, end_ms: int) -> Period:
    start_ms = end_ms - settings.days * _DAY_MS
    experiment = served.experiment_id(config.serving_experiment)
    if experiment is None:
        return Period(start_ms, end_ms, (), (_nothing(config),))
    found: list[Request] = []
    groups: dict[Group, Group] = {}
    with progress.steps("Reading traces, hours", settings.days * 24) as advance:
        told = _Hours(advance, end_ms)
        with closing(served.pages(experiment, start_ms, end_ms)) as pages:
            for page in pages:
                found += [_shared(request_of(item, rules), groups) for item in page]
                told.down_to(page[-1].start_ms if page else start_ms)
                if len(found) >= MOST_REQUESTS:
                    break
        told.down_to(start_ms)
    return Period(start_ms, end_ms, found[:MOST_REQUESTS], _notes(config, found))


class _Hours:
    """Progress in hours of the period: how many requests there are is not known before they are read."""

    def __init__(self, advance: Callable[[int], None], end_ms: int):
        self._advance, self._end_ms, self._told = advance, end_ms, 0

    def down_to(self, time_ms: int) -> None:
        hours = max(0, (self._end_ms - time_ms) // _HOUR_MS)
        self._advance(max(0, hours - self._told))
        self._told = max(hours, self._told)


def _shared(request: Request, groups: dict[Group, Group]) -> Request:
    """With one object for equal groups."""
    return replace(request, group=groups.setdefault(request.group, request.group))


def _notes(config: E2EConfig, found: Sequence[Request]) -> tuple[str, ...]:
    if not found:
        return (_nothing(config),)
    notes = []
    if len(found) >= MOST_REQUESTS:
        notes.append(f"only the newest {MOST_REQUESTS:,} requests were read; ask for fewer --days")
    if not any(item.answer and item.answer.repetition is not None for item in found):
        notes.append("repetition and declined_share need the answers' texts: start the server with TRACE_TEXTS=true")
    if not any(item.opinions or item.comments for item in found):
        notes.append("there is no feedback on these requests; --mode import-feedback brings a server's ledger in")
    return tuple(notes)


def _nothing(config: E2EConfig) -> str:
    return (
        f"the experiment '{config.serving_experiment}' has no request of this period: a server traces a share of them"
        " when it is started with MLFLOW_TRACE_SAMPLING_RATIO above 0 (its TRACE_EXPERIMENT is"
        " --serving-experiment here)"
    )


# --- baseline -------------------------------------------------------------------------------------


def _compared(period: Period, rules: Rules) -> tuple[list[Sample], list[str]]:
    """For each prompt and model version what is to be tested, and what cannot be."""
    samples: list[Sample] = []
    notes: list[str] = []
    for group, now in _answers(period.requests).items():
        run = served.baseline(group.prompt, group.model, group.model_version) if len(now) else None
        if run is None:
            notes.append(f"{group} was not evaluated, so there is nothing to compare it with: --mode evaluate")
            continue
        before = [answer_of(made, rules) for page in served.baseline_answers(run) for made in page]
        day = datetime.fromtimestamp(run.start_ms / 1000, UTC).date()
        notes.append(f"the baseline of {group} is the evaluation of {day}, run {run.run_id}, {len(before)} answers")
        samples += measures.samples(str(group), now, before)
    return samples, notes


def _answers(requests: Sequence[Request]) -> dict[Group, list[Answer]]:
    found: dict[Group, list[Answer]] = {}
    for item in requests:
        if item.answer is not None:
            found.setdefault(item.group, []).append(item.answer)
    return found


# --- concluding -----------------------------------------------------------------------------------


def _conclude(
    config: E2EConfig,
    settings: MonitorSettings,
    rules: Rules,
    period: Period,
    compared: Sequence[Sample],
    notes: Sequence[str],
    run_id: str,
) -> MonitorReport:
    found = measures.measure(period.requests)
    drift = tuple(find_drift(compared, rules.minimum_count, rules.drift, config.seed))
    few = measures.too_few(found, rules) if period.requests else []
    groups = Counter(str(item.group) for item in period.requests)
    return MonitorReport(
        run_id, config.serving_experiment, period.start_ms, period.end_ms, found, dict(groups.most_common()), drift,
        measures.crossed(found, drift, rules), (*period.notes, *notes, *few), str(settings.report),
    )  # fmt: skip


def _log(
    config: E2EConfig, settings: MonitorSettings, result: MonitorReport, period: Period, compared: Sequence[Sample]
) -> None:
    """The run's params, metrics and artifacts; and the report as a file."""
    params = {
        "days": settings.days, "serving_experiment": config.serving_experiment, "start_ms": result.start_ms,
        "end_ms": result.end_ms, "limits_file": settings.limits.name,
        "crossed": ", ".join(item.measure for item in result.crossed),
    }  # fmt: skip
    values = {item.name: item.value for item in result.measures if item.value is not None}
    counts = {"limits_crossed": float(len(result.crossed)),
              "drifted": float(sum(item.outcome == "drift" for item in result.drift))}  # fmt: skip
    runs.log_results(params, values | counts)
    days = measures.by_day(period.requests, period.start_ms, period.end_ms)
    with scratch_folder(config.staging_dir, "monitor") as folder:
        report.write(folder, result, days, measures.errors(period.requests), compared)
        runs.log_folder(folder)
        text = (folder / report.REPORT_FILE).read_text("utf-8").replace(_REPORT_LINK, "")
    runs.describe(text)
    write_whole(settings.report, text)
