"""What a person reads of a whole life."""

from __future__ import annotations

from genai_lifecycle.cli.text.life import of_deployment, of_export, of_plan, of_report, of_summary
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.lifecycle import LifecycleResult
from genai_lifecycle.models.acceptance.checks import Check
from genai_lifecycle.stages.deploy import DeploymentResult
from genai_lifecycle.stages.export import ExportResult
from genai_lifecycle.stages.serve import ServePlan, ServeSettings
from genai_lifecycle.stages.test import VerificationReport
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.prompt_registry import PromptRef

PROMPT = PromptRef("qa", 2, "{{question}}", "simple")
VERDICT = Verdict("win", "qa/2 simple", "qa/3 expert", "token_f1", Interval(0.11, 0.03, 0.19))
RESULT = PromptResult("qa/2 simple", PROMPT, "", "r2", "e", {}, {})
EXPERIMENT = EvaluationResult("r1", (RESULT,), VERDICT, 4, 4, 0, "none", None, (), 1.0, 1.0)
DEPLOYMENT = DeploymentResult(ModelVersion("m", "3", "models:/m-1", {}), "m-1", "r3", PROMPT, "0" * 64, 1.0)
CHECKS = (Check("loads", True, "in 2 s"), Check("latency", False, "9 s"))
PLAN = ServePlan("models:/m@champion", (("Our server", "make serve"),), "http://[::1]:5001")


def report(checks=CHECKS[:1], previous=None) -> VerificationReport:
    return VerificationReport("m", "3", checks, "3", previous, 1.0)


def exported(folder) -> ExportResult:
    return ExportResult(str(folder), "m", "3", "champion", "m:3", "openvino", "int8", "0" * 64, 9, 12_300_000)


def test_a_deployment_names_the_version_and_its_prompt():
    assert of_deployment(DEPLOYMENT) == "\nDeployment  m version 3 with prompt qa/2 simple, alias candidate"


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
    text = of_summary(E2EConfig(), ServeSettings(), "bundled GPT-2", result)
    assert "Summary     2 s: experiment 2 s" in text and "--mode serve --start" in text and "./run.sh" in text
    declined = LifecycleResult(EXPERIMENT, DEPLOYMENT, report(), PLAN, None, "a bundle is in the way", {})
    assert "bundle    not written: a bundle is in the way" in of_summary(
        E2EConfig(), ServeSettings(), "bundled GPT-2", declined
    )
