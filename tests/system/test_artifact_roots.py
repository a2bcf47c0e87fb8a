"""One database, several artifact roots: the same commands with another --data-dir, to a real S3 store and back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cli_process import arguments_for, run_cli
from conftest import make_cases

pytestmark = pytest.mark.slow


NAME = "langchain-e2e"


class Life:
    """Runs modes on one database, each with the artifact root that it is given."""

    def __init__(self, base: Path, model: Path, environment: dict[str, str]):
        self.base, self.environment = base, environment
        self.flags = [
            "--tracking-uri",
            f"sqlite:///{base / 'mlflow.db'}",
            "--model",
            str(model),
            "--cases",
            str(make_cases(base / "cases.jsonl")),
            "--output-dir",
            str(base / "bundle"),
            "--override-gate",
        ]  # fmt: skip: the weights are random

    def run(self, mode: str, root: str, *more: str):
        shutil.rmtree(self.base / "bundle", ignore_errors=True)
        done = run_cli(arguments_for(mode, "--data-dir", root, *self.flags, *more), **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def champion(self):
        """(version, where its files are, the run that it was tested in)."""
        client = self._client()
        found = client.get_model_version_by_alias("langchain-e2e-model", "champion")
        place = client.get_model_version_download_uri(found.name, found.version)
        return found.version, place, client.get_run(found.tags["lifecycle.test_run"])

    def experiments(self) -> dict[str, str]:
        """Name -> artifact location."""
        return {item.name: item.artifact_location for item in self._client().search_experiments()}

    def _client(self):
        import mlflow

        uri = f"sqlite:///{self.base / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        return mlflow.MlflowClient()


@pytest.fixture(scope="module")
def local(tmp_path_factory, tiny_gpt2) -> Life:
    """`--mode all` into a folder, in a store that knows of no other root yet."""
    base = tmp_path_factory.mktemp("roots")
    life = Life(base, tiny_gpt2, {})
    done = life.run("all", str(base / "data"))
    assert "\nExperiment " + NAME not in done.stdout, "nothing is said where nothing is different"
    return life


def test_another_folder_and_back(local):
    """Each root has its experiment; the registered model and the prompts are the same ones."""
    there, here = str(local.base / "more data"), str(local.base / "data")
    done = local.run("deploy", there)
    said = rf"^Experiment ({NAME}-more-data-[0-9a-f]{{6}}) \({NAME} has its artifacts in (.*)\)$"
    line = re.search(said, done.stdout, re.M)
    assert line and line[2] == f"{here}/{NAME}"
    assert f"\nArtifacts  {there}/{line[1]}\n" in done.stdout
    local.run("test", there)
    version, place, run = local.champion()
    assert version == 2 and place.startswith(there)
    assert run.info.artifact_uri.startswith(there) and run.data.tags["lifecycle.experiment"] == NAME
    assert "\nExperiment " + NAME not in local.run("deploy", here).stdout + local.run("test", here).stdout
    version, place, run = local.champion()
    assert version == 3 and place.startswith(f"{here}/{NAME}/") and "lifecycle.experiment" not in run.data.tags


@pytest.fixture(scope="module")
def in_s3(local, s3_store):
    """The same life, after the same command with `--data-dir s3://...` in a bucket that is not there yet."""
    local.environment |= s3_store.environment | {"AWS_EC2_METADATA_DISABLED": "true"}
    root = "s3://other-root/team/a"
    done = local.run("all", root)
    return local, root, done


@pytest.mark.s3
def test_the_same_command_with_a_bucket(in_s3, s3_store):
    life, root, done = in_s3
    line = re.search(rf"^Experiment ({NAME}-s3-other-root-team-a-[0-9a-f]{{6}}) ", done.stdout, re.M)
    assert line, done.stdout
    assert life.experiments()[line[1]] == f"{root}/{line[1]}"
    version, place, run = life.champion()
    assert place.startswith(f"{root}/{line[1]}/") and run.data.tags["lifecycle.experiment"] == NAME
    assert any(key.endswith("MLmodel") for key in s3_store.objects("other-root"))
    again = life.run("deploy", root)
    assert line[1] in again.stdout and "Artifacts  s3://other-root/team/a/" in again.stdout
    assert len([name for name in life.experiments() if name.startswith(f"{NAME}-s3-")]) == 1


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["serve", "test", "evaluate", "monitor", "clean", "doctor", "export"])
def test_the_modes_after_it_find_what_is_there(in_s3, mode, tmp_path):
    life, root, _ = in_s3
    report = ["--report", str(tmp_path / "monitor.md")] if mode == "monitor" else []
    done = life.run(mode, root, *report)
    if mode != "doctor":
        assert f"\nExperiment {NAME}-s3-other-root-team-a-" in done.stdout
    if mode == "evaluate":
        life.run(mode, str(life.base / "data"))
        places = {place for name, place in life.experiments().items() if "-eval" in name}
        assert {place.partition("qa-")[0] for place in places} == {f"{root}/", f"{life.base}/data/"}


@pytest.mark.s3
def test_the_way_back_and_a_champion_that_is_out_of_reach(in_s3):
    life, root, _ = in_s3
    life.run("deploy", root)
    life.run("test", root)
    here = str(life.base / "data")
    life.run("deploy", here)
    keyless = {name: value for name, value in life.environment.items() if "KEY" not in name}
    done = run_cli(arguments_for("test", "--data-dir", here, *life.flags), **keyless)
    assert done.returncode == 11 and "no keys for the S3 store" in done.stderr, done.stderr
    assert "to compare with, are there" in done.stderr and life.champion()[1].startswith(root)
    life.run("test", here)
    assert life.champion()[1].startswith(f"{here}/{NAME}/")
