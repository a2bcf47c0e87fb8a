"""Mode `test`: promotion of a good version, refusal of versions that were tampered with.

The probe is a fork here; in a fresh process of its own it is in tests/system/test_lifecycle.py.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import forked
import mlflow
import pytest

from genai_lifecycle.errors import GateRefused, NotFound, VerificationFailed
from genai_lifecycle.stages import test as stage
from genai_lifecycle.stages.deploy import DeploySettings, deploy_model
from genai_lifecycle.stages.test import VerificationReport, verify_candidate
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.tracking_store import open_store


@pytest.fixture(scope="module", autouse=True)
def forked_probe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "subprocess", forked)
        yield


@pytest.fixture(scope="module")
def report(shared_life, deployed) -> VerificationReport:
    """The first version passes."""
    open_store(shared_life.config)
    return verify_candidate(shared_life.config, shared_life.store)


@pytest.fixture
def redeploy(life, report, deployed):
    """Makes one more candidate of the first version's files and hands out the folder of its own."""

    def make() -> tuple[str, Path]:
        logged = mlflow.MlflowClient().create_logged_model(life.store.experiment_id, "model", deployed.run_id)
        shutil.copytree(files_of(deployed.model_id), files_of(logged.model_id))
        mlflow.MlflowClient().finalize_logged_model(logged.model_id, "READY")
        tags = version_tags(life, deployed.version)
        kept = {name: value for name, value in tags.items() if not name.startswith(("lifecycle.", "gate."))}
        made = model_registry.register(deployed.name, logged.model_id, deployed.run_id, kept)
        model_registry.set_alias(made.name, model_registry.CANDIDATE, made.version)
        return made.version, files_of(logged.model_id) / "artifacts"

    return make


def files_of(model_id: str) -> Path:
    return Path(mlflow.get_logged_model(model_id).artifact_location.removeprefix("file://"))


def aliases(life) -> dict[str, str | None]:
    found = {
        alias: model_registry.by_alias(life.config.registered_model_name, alias) for alias in ("champion", "previous")
    }
    return {alias: version and version.version for alias, version in found.items()}


def version_tags(life, version: str) -> dict[str, str]:
    return mlflow.MlflowClient().get_model_version(life.config.registered_model_name, version).tags


# --- a good version -------------------------------------------------------------------------------


def test_a_version_that_passes_becomes_champion(life, report):
    assert report.passed and (report.version, report.champion, report.previous) == ("1", "1", None)
    assert aliases(life) == {"champion": "1", "previous": None}
    assert version_tags(life, "1")["lifecycle.test"] == "passed"


def test_every_kind_of_check_was_made(report):
    names = [check.name for check in report.checks]
    assert names == [
        "weights", "engine", "input as dataframe", "input as dict", "input as dict of list", "input as list of str",
        "input as list of dict", "input as string", "refuses no question column", "refuses empty question",
        "refuses number", "parameters", "streaming", "golden answers", "case quality", "latency",
    ]  # fmt: skip
    details = {check.name: check.detail for check in report.checks}
    assert details["golden answers"] == "8 of 8 token for token"
    assert details["case quality"] == "token F1 1.000, success rate 1.00 over 9 cases; experiment 1.000"


def test_the_report_is_an_artifact_of_the_tests_run(life, report, tmp_path):
    run_id = version_tags(life, "1")["lifecycle.test_run"]
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=str(tmp_path)))
    assert len(json.loads((folder / "test_report.json").read_text())) == len(report.checks)
    text = (folder / "test_report.md").read_text("utf-8")
    assert "16 of 16 checks passed." in text
    assert text.count("| passed |") == 16
    metrics = mlflow.get_run(run_id).data.metrics
    assert metrics["checks_passed"] == metrics["checks"] == 16
    assert metrics["load_s"] > 0 and metrics["answered_rate"] == 1


# --- versions that must not be promoted -----------------------------------------------------------


def test_tampered_weights_are_refused_and_the_champion_stays(life, report, redeploy):
    from safetensors.torch import load_file, save_file

    version, folder = redeploy()
    weights = folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor.flip(0) for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(VerificationFailed, match=f"Version {version} failed 1 of 16 checks: weights") as failed:
        verify_candidate(life.config, life.store)
    assert failed.value.exit_code == 6
    assert "No alias was moved" in failed.value.hint
    assert aliases(life) == {"champion": "1", "previous": None}
    tags = version_tags(life, version)
    assert tags["lifecycle.test"] == "failed"
    assert tags["lifecycle.test_run"] in failed.value.hint


def test_tampered_golden_answers_are_refused_then_a_good_version_follows(life, report, redeploy):
    version, folder = redeploy()
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    golden[-1]["token_ids"][0] += 1
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(VerificationFailed, match="failed 1 of 16 checks: golden answers .1 of 8 differ"):
        verify_candidate(life.config, life.store)
    assert aliases(life) == {"champion": "1", "previous": None}
    assert version_tags(life, version)["lifecycle.test"] == "failed"

    good, _ = redeploy()
    assert verify_candidate(life.config, life.store).previous == "1"
    assert aliases(life) == {"champion": good, "previous": "1"}


def test_a_version_that_cannot_be_loaded_is_refused(life, report, redeploy):
    before = aliases(life)
    version, folder = redeploy()
    (folder / "model" / "config.json").write_bytes(b"cut off")
    with pytest.raises(VerificationFailed, match="runs in a fresh process .*Error"):
        verify_candidate(life.config, life.store)
    assert aliases(life) == before
    assert version_tags(life, version)["lifecycle.test"] == "failed"


def test_a_version_whose_engine_cannot_start_is_refused(life, report, redeploy):
    """torch would answer in its place, and rightly, but slowly: the version is not what it was made to be."""
    before = aliases(life)
    _, folder = redeploy()
    (folder / "ir" / "openvino_model.bin").write_bytes(b"cut off")
    with pytest.raises(VerificationFailed, match="failed 1 of 16 checks: engine .torch.* made for openvino"):
        verify_candidate(life.config, life.store)
    assert aliases(life) == before


def test_a_probe_that_hangs_is_ended(life, report, redeploy, monkeypatch, tmp_path):
    redeploy()
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(stage, "PROBE", tmp_path / "hangs.py")
    monkeypatch.setattr(stage, "PROBE_TIMEOUT_S", 0.5)
    before = aliases(life)
    with pytest.raises(VerificationFailed, match="no answer within 0.5 s"):
        verify_candidate(life.config, life.store)
    assert aliases(life) == before


def test_there_is_nothing_to_test_before_deploy(store, make_config):
    with pytest.raises(NotFound, match="There is no candidate version") as error:
        verify_candidate(make_config(), store)
    assert "--mode deploy" in error.value.hint


# --- the gate -------------------------------------------------------------------------------------


def test_a_version_that_works_but_answers_worse_is_refused_and_an_override_is_recorded(life, report, experimented):
    config = dataclasses.replace(life.config, engine="torch")
    worse = next(item.prompt for item in experimented.results if item.prompt.template_name == "simple")
    made = deploy_model(config, life.source, life.store, worse, {}, DeploySettings())
    before = aliases(life)
    with pytest.raises(GateRefused, match=f"Version {made.version} works, .* worse than version") as refused:
        verify_candidate(config, life.store)
    assert refused.value.exit_code == 16
    assert all(way in refused.value.hint for way in ("--registered-model-name", "--override-gate", "gate.yaml"))
    assert aliases(life) == before
    tags = version_tags(life, made.version)
    assert (tags["lifecycle.test"], tags["gate.decision"], tags["gate.forced"]) == ("passed", "refused", "false")
    assert "worse than version" in tags["gate.reasons"]
    verdict = mlflow.artifacts.load_dict(f"runs:/{tags['lifecycle.test_run']}/decision.json")
    assert verdict["subject"] == f"version {made.version}" and verdict["allowed"] is False

    forced = verify_candidate(dataclasses.replace(config, override_gate=True), life.store)
    assert (forced.champion, forced.decision.forced) == (made.version, True)
    assert version_tags(life, made.version)["gate.forced"] == "true"
    model_registry.swap_champion(life.config.registered_model_name)
    assert aliases(life)["champion"] == before["champion"]


def test_the_champion_answers_again_where_its_test_was_over_other_cases(life, report, redeploy, tmp_path, caplog):
    from conftest import make_cases

    redeploy()
    config = dataclasses.replace(life.config, cases=make_cases(tmp_path / "other.jsonl"))
    with caplog.at_level("INFO", logger="genai_lifecycle"):
        found = verify_candidate(config, life.store)
    assert "answers the same cases" in caplog.text
    assert any("not worse than version" in reason for reason in found.decision.reasons)


def test_a_wrong_gate_file_is_told_before_anything_is_done(life, report, tmp_path):
    from genai_lifecycle.errors import ConfigError

    (tmp_path / "gate.yaml").write_text("model: {mode: perhaps}\n")
    with pytest.raises(ConfigError, match="mode is 'perhaps'"):
        verify_candidate(dataclasses.replace(life.config, gate=tmp_path / "gate.yaml"), life.store)
