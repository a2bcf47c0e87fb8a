"""What a person reads of a whole life."""

from __future__ import annotations

from genai_lifecycle.cli.text.life import of_experiment, of_export, of_plan, of_report, of_summary
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.results import ExperimentResult, TemplateScore
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.lifecycle import LifecycleResult
from genai_lifecycle.models.acceptance.checks import Check
from genai_lifecycle.stages.deploy import DeploymentResult
from genai_lifecycle.stages.export import ExportResult
from genai_lifecycle.stages.serve import ServePlan
from genai_lifecycle.stages.test import VerificationReport
from genai_lifecycle.store.prompt_registry import PromptRef

PROMPT = PromptRef("qa-simple", 2, "{{question}}")
SCORE = TemplateScore(PROMPT, "r2", {"ended_rate": 1.0, "tokens_per_second": 812.4}, Interval(0.5, 0.4, 0.6))
VERDICT = Verdict("win", "qa-simple", "qa-expert", "token_f1", Interval(0.11, 0.03, 0.19))
EXPERIMENT = ExperimentResult("r1", (SCORE,), VERDICT, PROMPT, 4, 4, "none", 1.0)
DEPLOYMENT = DeploymentResult("m", "3", "m-1", "r3", PROMPT, "0" * 64, 1.0)
CHECKS = (Check("loads", True, "in 2 s"), Check("latency", False, "9 s"))
PLAN = ServePlan("models:/m@champion", (("Our server", "make serve"),), "http://[::1]:5001")


def report(checks=CHECKS[:1], previous=None) -> VerificationReport:
    return VerificationReport("m", "3", checks, "3", previous, 1.0)


def exported(folder) -> ExportResult:
    return ExportResult(str(folder), "m", "3", "champion", "m:3", "openvino", "int8", "0" * 64, 9, 12_300_000)


def test_an_experiment_names_every_prompt_and_what_follows():
    lines = of_experiment(EXPERIMENT).splitlines()[1:]
    assert lines[0] == "Experiment  4 cases, 1 prompts, 4 traces, run r1"
    assert lines[1].split() == "qa-simple/2 token F1 0.500 [0.400, 0.600] ended 100% 812 tokens/s".split()
    assert lines[2].startswith("  win: qa-simple") and lines[-1] == "  qa-simple/2 is in production"


def test_a_report_counts_what_passed():
    text = of_report(report(CHECKS, previous="2"))
    assert "1 of 2 checks passed" in text and "FAILED  latency: 9 s" in text and "previous is version 2" in text
    assert "there is no previous version yet" in of_report(report())


def test_commands_stand_below_what_they_are_for():
    assert of_plan(PLAN).endswith("Our server\n    make serve")


def test_the_bundles_folder_is_as_one_types_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "cd 'my bundle' && ./build.sh && ./run.sh   builds and starts m:3" in of_export(
        exported(tmp_path / "my bundle")
    )
    assert "folder    /elsewhere: 9 files, 12 MB" in of_export(exported("/elsewhere"))


def test_a_summary_says_what_to_type_next(tmp_path):
    result = LifecycleResult(EXPERIMENT, DEPLOYMENT, report(), PLAN, exported(tmp_path), seconds={"experiment": 2.4})
    text = of_summary(E2EConfig(), "bundled GPT-2", result)
    assert "Summary     2 s: experiment 2 s" in text and "--mode serve --start" in text and "./run.sh" in text
    declined = LifecycleResult(EXPERIMENT, DEPLOYMENT, report(), PLAN, None, "a bundle is in the way", {})
    assert "bundle    not written: a bundle is in the way" in of_summary(E2EConfig(), "bundled GPT-2", declined)
