"""What the modes verify, monitor and import-feedback tell a person, as text. `main.py` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genai_lifecycle.serving.commands import as_typed

if TYPE_CHECKING:
    from genai_lifecycle.monitoring.report import MonitorReport
    from genai_lifecycle.stages.import_feedback import FeedbackImport
    from genai_lifecycle.stages.verify import ServerComparison

SHOWN_REQUESTS = 5  # that have no trace; the others are counted


def of_comparison(report: ServerComparison) -> str:
    """A line for each thing that was compared."""
    alias = f" ({report.alias})" if report.alias else ""
    lines = [f"\nVerify      {report.url} beside {report.model_uri}{alias}"]
    return "\n".join(
        lines
        + [f"  {'same   ' if check.passed else 'DIFFERS'}  {check.name}: {check.detail}" for check in report.checks]
    )


def of_import(result: FeedbackImport, *, wants_cases: bool) -> str:
    """What became of the ledger's entries, and of the cases where some were asked for."""
    lines = [
        f"\nFeedback    {as_typed(result.ledger)}: {result.entries} entries",
        f"  {result.imported} attached to their traces, {result.before} were there before",
    ]
    if found := result.without_trace:
        lines.append(f"  {len(found)} without a trace (not sampled, or of another store): {_shown(found)}")
    if result.refused:
        lines.append(f"  {len(result.refused)} that MLflow does not take (-v says why): {_shown(result.refused)}")
    lines += [f"  Not readable: {sentence}" for sentence in result.unreadable]
    lines += ["  The last line is half written; it is left for next time"] if result.is_half_written else []
    lines += [f"  {count} judged requests gave no case: {why}" for why, count in result.cases_left_out.items()]
    if wants_cases:
        place = f" in {as_typed(result.cases_file)}" if result.cases_file else "; no file"
        lines.append(f"  {result.cases} cases{place}")
    return "\n".join(lines)


def _shown(requests: Sequence[str]) -> str:
    return ", ".join(requests[:SHOWN_REQUESTS]) + (", ..." if len(requests) > SHOWN_REQUESTS else "")


def of_monitor(result: MonitorReport) -> str:
    """The figures, the limits that were crossed and the drift, in short."""
    from genai_lifecycle.monitoring.report import lines_of

    lines = [f"\nMonitor     {result.requests} requests, run {result.run_id}"]
    lines += [f"  {line}" for line in lines_of(result)]
    return "\n".join([*lines, f"  report    {as_typed(result.report_file)}"])
