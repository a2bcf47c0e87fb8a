"""What the stages return: frozen dataclasses, data only, each in the file of the modes it belongs to."""

from genai_lifecycle.results.life import (
    DeploymentResult,
    ExperimentResult,
    ExportResult,
    LifecycleResult,
    ServePlan,
    TemplateScore,
    VerificationReport,
)
from genai_lifecycle.results.maintenance import Cleaning, Disposal, Finding, MovedColumn, Relocation
from genai_lifecycle.results.prompts import PromptsResult, RollbackResult, StoredPrompt, StoredVersion
from genai_lifecycle.results.quality import (
    CrossedLimit,
    DriftFinding,
    Evaluated,
    EvaluationReport,
    FeedbackImport,
    Measure,
    MonitorReport,
    ServerComparison,
)
from genai_lifecycle.results.verdicts import Check, Comparison, Decision, Interval, PromptRef, Verdict

__all__ = [
    "Check",
    "Cleaning",
    "Comparison",
    "CrossedLimit",
    "Decision",
    "DeploymentResult",
    "Disposal",
    "DriftFinding",
    "Evaluated",
    "EvaluationReport",
    "ExperimentResult",
    "ExportResult",
    "FeedbackImport",
    "Finding",
    "Interval",
    "LifecycleResult",
    "Measure",
    "MonitorReport",
    "MovedColumn",
    "PromptRef",
    "PromptsResult",
    "Relocation",
    "RollbackResult",
    "ServePlan",
    "ServerComparison",
    "StoredPrompt",
    "StoredVersion",
    "TemplateScore",
    "Verdict",
    "VerificationReport",
]
