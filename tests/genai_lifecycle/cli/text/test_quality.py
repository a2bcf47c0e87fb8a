"""What a person reads of verify, monitor and import-feedback."""

from __future__ import annotations

from genai_lifecycle.cli.text.quality import of_comparison, of_import, of_monitor
from genai_lifecycle.models.acceptance.checks import Check
from genai_lifecycle.monitoring.measures import Measure
from genai_lifecycle.monitoring.report import MonitorReport
from genai_lifecycle.stages.import_feedback import FeedbackImport
from genai_lifecycle.stages.verify import ServerComparison


def test_a_difference_stands_out():
    checks = (Check("version", True, "3"), Check("weights", False, "1 here, 2 there"))
    lines = of_comparison(ServerComparison("http://a", "models:/m/3", "champion", checks)).splitlines()
    assert lines[1:] == [
        "Verify      http://a beside models:/m/3 (champion)",
        "  same     version: 3",
        "  DIFFERS  weights: 1 here, 2 there",
    ]


def test_an_import_counts_and_names_a_few(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lost = tuple(f"q{number}" for number in range(7))
    result = FeedbackImport(str(tmp_path / "f.jsonl"), 9, 1, 1, lost, (), True, None, 0, {"no score": 2})
    text = of_import(result, wants_cases=True)
    assert "Feedback    f.jsonl: 9 entries" in text and "7 without a trace" in text and "q4, ..." in text
    assert "half written" in text and "2 judged requests gave no case: no score" in text
    assert text.endswith("0 cases; no file") and "cases; no file" not in of_import(result, wants_cases=False)


def test_a_monitor_says_where_its_report_is():
    report = MonitorReport(
        "r1", "serving", 0, 1000, (Measure("requests", 40.0, 40),), {}, (), (), (), "/tmp/monitor.md"
    )
    text = of_monitor(report)
    assert "Monitor     40 requests, run r1" in text and text.endswith("report    /tmp/monitor.md")
