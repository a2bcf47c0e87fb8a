"""Mode `test`: a fresh process loads the candidate; only a version that passes becomes champion."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import GateRefused, VerificationFailed
from genai_lifecycle.evaluation.case_files import load_cases
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.evidence import Evidence, read_scores, write_scores
from genai_lifecycle.evaluation.gate import ANSWERED, Decision, decide, load_policy
from genai_lifecycle.evaluation.scorers import AGAINST_REFERENCE, answered
from genai_lifecycle.models.acceptance.checks import Check, all_checks
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.store import evaluations, model_registry, runs
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.tracking_store import Store


@dataclass(frozen=True)
class VerificationReport:
    """What the fresh process found, and which aliases moved."""

    name: str
    version: str
    checks: tuple[Check, ...]
    champion: str | None  # version that has the alias after the test
    previous: str | None
    compute_s: float
    decision: Decision | None = None  # what the gate said

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


log = logging.getLogger(__name__)

PROBE = Path(__file__).parent.parent / "models" / "acceptance" / "probe.py"
PROBE_TIMEOUT_S = 900  # loading and answering with a model of a few hundred million parameters
RESULT_TAG, RUN_TAG = "lifecycle.test", "lifecycle.test_run"


def verify_candidate(config: E2EConfig, store: Store, candidate: ModelVersion | None = None) -> VerificationReport:
    """Test a version, and promote it when every check passes and the gate lets it.

    Args:
        candidate: None = the version that has the alias `candidate`.

    Raises:
        NotFound: nothing was deployed yet.
        VerificationFailed: a check failed; no alias moved, and the report is an artifact of the test's run.
        GateRefused: it works, but gate.yaml asks for more; no alias moved.
    """
    policy = load_policy(config.gate, "model")
    candidate = candidate or model_registry.candidate(config.registered_model_name)
    cases = load_cases(config.cases)
    measured = runs.measured(store, candidate.tags, cases_sha256(cases))
    log.info("Testing version %s in a process of its own.", candidate.version)
    with (
        scratch_folder(config.staging_dir, "test") as folder,
        runs.run("test", "test", tags={"lifecycle.version": candidate.version}) as run_id,
    ):
        observed = _observe(folder, candidate, store, cases)
        checks = (
            all_checks(observed, cases, measured.get("token_f1"), candidate.tags["weights_sha256"])
            if observed.get("forms")
            else [_did_not_run(observed)]
        )
        evidence = _evidence(candidate, observed, cases)
        _log_report(folder, candidate, checks, observed, evidence)
        _require_passed(candidate, checks, run_id)
        former = _champions_evidence(folder, candidate, store, cases)
    decision = decide(policy, evidence, former, override=config.override_gate)
    return _promote(candidate, checks, run_id, observed, decision)


def _observe(folder: Path, candidate: ModelVersion, store: Store, cases: Sequence[Case]) -> dict[str, Any]:
    """Run the probe in a process of its own, outside the checkout; {"error": ...} when it could not load."""
    request, observed = folder / "request.json", folder / "observed.json"
    (folder / "download").mkdir()
    request.write_text(
        json.dumps(
            {
                "model_uri": f"models:/{candidate.name}/{candidate.version}",
                "download_dir": str(folder / "download"),
                "questions": [case.question for case in cases],
            }
        )
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_REGISTRY_URI": store.uri}
    command = [sys.executable, "-I", str(PROBE), str(request), str(observed)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_TIMEOUT_S} s"}
    log.debug("probe: %s", done.stderr)
    if done.returncode != 0 or not observed.exists():
        return {"error": (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]}
    return json.loads(observed.read_text("utf-8"))


def _did_not_run(observed: dict[str, Any]) -> Check:
    return Check("runs in a fresh process", False, str(observed.get("error")))


def _log_report(
    folder: Path, candidate: ModelVersion, checks: Sequence[Check], observed: dict[str, Any], evidence: Evidence | None
) -> None:
    report = folder / "report"
    report.mkdir()
    passed = sum(check.passed for check in checks)
    lines = [
        f"# Test of {candidate.name} version {candidate.version}",
        "",
        f"{passed} of {len(checks)} checks passed.",
        "",
    ]
    lines += ["| check | result | detail |", "|---|---|---|"]
    lines += [f"| {c.name} | {'passed' if c.passed else 'FAILED'} | {c.detail} |" for c in checks]
    (report / "test_report.md").write_text("\n".join(lines) + "\n", "utf-8")
    (report / "test_report.json").write_text(json.dumps([asdict(check) for check in checks], indent=2), "utf-8")
    if evidence is not None:
        write_scores(report, evidence)
    runs.log_folder(report)
    latencies = {"load_s": observed["load_s"], "probe_compute_s": observed["compute_s"]} if "load_s" in observed else {}
    rates = {"answered_rate": fmean(evidence.scores[ANSWERED])} if evidence is not None else {}
    metrics = {"checks_passed": passed, "checks": len(checks)} | latencies | rates
    runs.log_results({"version": candidate.version}, metrics)


def _require_passed(candidate: ModelVersion, checks: Sequence[Check], run_id: str) -> None:
    """The result is a tag of the version either way."""
    failed = [check for check in checks if not check.passed]
    model_registry.tag_version(
        candidate.name, candidate.version, {RESULT_TAG: "failed" if failed else "passed", RUN_TAG: run_id}
    )
    if failed:
        raise VerificationFailed(
            f"Version {candidate.version} failed {len(failed)} of {len(checks)} checks: "
            + "; ".join(f"{check.name} ({check.detail})" for check in failed[:3])
            + ".",
            hint=f"No alias was moved. The whole report is in run {run_id}, test_report.md.",
        )


# --- the gate -------------------------------------------------------------------------------------


def _evidence(version: ModelVersion, observed: Mapping[str, Any], cases: Sequence[Case]) -> Evidence | None:
    """The scores of each case; None when the version did not answer them."""
    answers = observed.get("cases", ())
    if len(answers) != len(cases):
        return None
    texts = [answer["answer"] for answer in answers]
    scores = {
        name: tuple(score(text, case.reference) for text, case in zip(texts, cases, strict=True))
        for name, score in AGAINST_REFERENCE.items()
    }
    scores[ANSWERED] = tuple(
        float(answered(answer["answer"], answer["finish_reason"], answer["token_ids"])) for answer in answers
    )
    latencies = tuple(item["seconds"] * 1000 for item in observed["golden"])  # each asked alone
    return Evidence(f"version {version.version}", cases_sha256(cases), scores, latencies)


def _champions_evidence(folder: Path, candidate: ModelVersion, store: Store, cases: Sequence[Case]) -> Evidence | None:
    """What the champion's own test found out; it answers again where that was over other cases. None without one."""
    champion = model_registry.by_alias(candidate.name, model_registry.CHAMPION)
    if champion is None or champion.version == candidate.version:
        return None
    kept = read_scores(champion.tags[RUN_TAG]) if RUN_TAG in champion.tags else None
    if kept is not None and kept.cases_sha256 == cases_sha256(cases):
        return kept
    log.info("The champion, version %s, answers the same cases.", champion.version)
    (folder / "champion").mkdir()
    found = _evidence(champion, _observe(folder / "champion", champion, store, cases), cases)
    if found is None:  # a champion that does not work must not keep out one that does
        log.warning("The champion, version %s, does not answer; it is not compared with.", champion.version)
    return found


def _promote(
    candidate: ModelVersion, checks: Sequence[Check], run_id: str, observed: dict[str, Any], decision: Decision
) -> VerificationReport:
    """Record what the gate said, then move the aliases, or leave them and raise."""
    model_registry.tag_version(candidate.name, candidate.version, decision.tags())
    evaluations.attach_decision(run_id, {"subject": f"version {candidate.version}", **asdict(decision)})
    if not decision.allowed:
        raise GateRefused(
            f"Version {candidate.version} works, but the gate refused it: {'; '.join(decision.reasons)}.",
            hint="No alias was moved. gate.yaml says what is asked. Under another --registered-model-name a version is "
            "compared with no champion; --override-gate lets this one pass, on record.",
        )
    champion, previous = model_registry.promote(candidate)
    return VerificationReport(
        name=candidate.name,
        version=candidate.version,
        checks=tuple(checks),
        champion=champion,
        previous=previous,
        compute_s=observed["compute_s"],
        decision=decision,
    )
