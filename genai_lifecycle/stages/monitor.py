"""Stage `monitor`: the servers' traces of the last days as figures, limits, and drift from the evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from genai_lifecycle.config import DATA_ROOT, E2EConfig, settings_file
from genai_lifecycle.monitoring import drift, measures, report
from genai_lifecycle.monitoring.drift import Sample
from genai_lifecycle.monitoring.period import Period, read_period
from genai_lifecycle.monitoring.report import MonitorReport
from genai_lifecycle.monitoring.request_table import GROUP, answer_table, answered, group_name
from genai_lifecycle.monitoring.rules import Rules, load_rules
from genai_lifecycle.runtime.atomic_write import write_whole
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import runs, served
from genai_lifecycle.store.tracking_store import Store

STAGE = "monitor"
_DAY_MS = 86_400_000
_REPORT_LINK = "![volume and latency](daily.png)\n\n"  # the plots are in the run


@dataclass(frozen=True)
class MonitorSettings(Settings):
    """Which days, against which limits."""

    days: int = setting(7, "how many days back", metavar="N", limits=(1, 3650))
    limits: Path = setting(settings_file("monitor.yaml"), "the limits of a period", metavar="FILE")
    report: Path = setting(
        DATA_ROOT / "local_staging" / "monitor.md", "a copy of the report, which the run keeps", metavar="FILE"
    )


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
    end_ms = now_ms if now_ms is not None else int(time.time() * 1000)
    period = read_period(config.serving_experiment, end_ms - settings.days * _DAY_MS, end_ms, rules)
    with runs.run(STAGE, STAGE) as run_id:
        samples, notes = _samples(period, rules)
        result = _report(config, settings, rules, period, samples, notes, run_id)
        _log(config, settings, result, period, samples)
    return result


def _samples(period: Period, rules: Rules) -> tuple[list[Sample], list[str]]:
    """What is compared with the evaluation of each prompt and model version, and notes on what is not."""
    samples: list[Sample] = []
    notes: list[str] = []
    for group, answers in answered(period.requests).groupby(GROUP, sort=False):
        name, run = group_name(*group), served.baseline(*group)
        if run is None:
            notes.append(f"{name} was not evaluated, so there is nothing to compare it with: --mode evaluate")
            continue
        baseline = answer_table((item for page in served.baseline_answers(run) for item in page), rules)
        day = datetime.fromtimestamp(run.start_ms / 1000, UTC).date()
        notes.append(f"the baseline of {name} is the evaluation of {day}, run {run.run_id}, {len(baseline)} answers")
        samples += drift.samples(name, answers, baseline)
    return samples, notes


def _report(
    config: E2EConfig,
    settings: MonitorSettings,
    rules: Rules,
    period: Period,
    samples: Sequence[Sample],
    notes: Sequence[str],
    run_id: str,
) -> MonitorReport:
    figures = measures.measure(period.requests)
    results = tuple(drift.compare(samples, rules.minimum_count, rules.drift, config.seed))
    few = [] if period.requests.empty else measures.too_few(figures, rules)
    return MonitorReport(
        run_id, config.serving_experiment, period.start_ms, period.end_ms, figures, measures.groups(period.requests),
        results, measures.crossed_limits(figures, results, rules), (*period.notes, *notes, *few), str(settings.report),
    )  # fmt: skip


def _log(
    config: E2EConfig, settings: MonitorSettings, result: MonitorReport, period: Period, samples: Sequence[Sample]
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
        report.write(folder, result, days, measures.errors(period.requests), samples)
        runs.log_folder(folder)
        text = (folder / report.REPORT_FILE).read_text("utf-8").replace(_REPORT_LINK, "")
    runs.describe(text)
    write_whole(settings.report, text)
