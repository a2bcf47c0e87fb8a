"""Mode clean on a real store: what goes, what stays, and that a killed one goes on."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cli_process import run_cli

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import Busy
from genai_lifecycle.evaluation.answer_cache import folder as folder_of_ledgers
from genai_lifecycle.lifecycle import MLflow3E2ELifecycle
from genai_lifecycle.stages.clean import DAY_MS, CleanSettings, clean
from genai_lifecycle.store import model_registry, runs
from genai_lifecycle.store.maintenance import inventory
from genai_lifecycle.store.store_lock import only_run_on
from genai_lifecycle.store.tracking_store import Store

NAME = "langchain-e2e-model"


@dataclass
class History:
    """A store with experiments and deployments of as many days ago as wanted, made by MLflow itself."""

    config: E2EConfig
    store: Store

    def run(self, stage: str, days: float, parent: str | None = None, status: str = "FINISHED", **params: str) -> str:
        import mlflow

        client = mlflow.MlflowClient()
        tags = {runs.STAGE_TAG: stage} | ({"mlflow.parentRunId": parent} if parent else {})
        started = int(time.time() * 1000 - days * DAY_MS)
        made = client.create_run(self.store.experiment_id, start_time=started, tags=tags, run_name=stage)
        for name, value in params.items():
            client.log_param(made.info.run_id, name, value)
        client.log_text(made.info.run_id, "found " * 100, "report.md")
        if status != "RUNNING":
            client.set_terminated(made.info.run_id, status)
        return made.info.run_id

    def experiment(self, days: float, weights: str = "w") -> tuple[str, str]:
        """(parent, nested run), with two traces."""
        import mlflow

        parent = self.run("experiment", days)
        child = self.run(runs.EVALUATE, days, parent, prompt="qa-simple/1", weights_sha256=weights)
        for _ in range(2):
            mlflow.start_span_no_context("answer", metadata={"mlflow.sourceRun": child}).end()
        mlflow.flush_trace_async_logging()
        return parent, child

    def evaluation(self, days: float, prompt: str, version: str = "1", model: str = NAME) -> str:
        """A run in the prompt's own experiment, with a trace."""
        import mlflow

        name = f"{prompt.partition('/')[0]}-eval"
        found = mlflow.get_experiment_by_name(name)
        root = f"{self.config.data_dir}/{name}"
        place = found.experiment_id if found else mlflow.MlflowClient().create_experiment(name, artifact_location=root)
        own = replace(self.store, experiment_id=place)
        made = replace(self, store=own).run("evaluate", days, prompt=prompt, model_name=model, model_version=version)
        mlflow.start_span_no_context("answer", experiment_id=place, metadata={"mlflow.sourceRun": made}).end()
        mlflow.flush_trace_async_logging()
        return made

    def version(self, days: float, *aliases: str, weights: str = "w") -> tuple[str, str, Path]:
        """(number, run, folder) of a registered version."""
        import mlflow

        client = mlflow.MlflowClient()
        run_id = self.run("deploy", days)
        model = client.create_logged_model(self.store.experiment_id, "model", run_id)
        folder = Path(model.artifact_location)
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("x" * 5000)
        client.finalize_logged_model(model.model_id, "READY")
        tags = {"prompt": "qa-simple/1", "weights_sha256": weights, "run_id": run_id}
        made = model_registry.register(NAME, model.model_id, run_id, tags)
        for alias in aliases:
            model_registry.set_alias(NAME, alias, made.version)
        return made.version, run_id, folder

    def clean(self, **settings):
        everything = {"older_than_days": 0, "keep": 0, "apply": True}
        return clean(self.config, self.store, CleanSettings(**everything | settings))

    def runs(self) -> set[str]:
        return {run.run_id for run in inventory.runs(self.store.experiment_id)}

    def versions(self) -> list[str]:
        return [version.version for version in inventory.versions(NAME)]


@pytest.fixture
def history(make_config, store) -> History:
    return History(make_config(tracking_uri=store.uri), store)


def test_what_an_alias_points_at_stays_with_its_runs_and_traces(history):
    import mlflow

    parent, child = history.experiment(90)
    number, deploy, folder = history.version(80, "champion")
    other_parent, _ = history.experiment(70, weights="other")
    old, old_deploy, old_folder = history.version(60, weights="third")
    newest, newest_child = history.experiment(50, weights="other")
    result = history.clean()
    assert history.versions() == [number] and folder.is_dir() and not old_folder.parent.exists()
    assert history.runs() == {parent, child, deploy, newest, newest_child}
    left = mlflow.search_traces(locations=[history.store.experiment_id], return_type="list")
    assert sorted(trace.info.trace_metadata["mlflow.sourceRun"] for trace in left) == sorted(2 * [child, newest_child])
    assert result.removed == len(result.disposals) == 4
    sizes = {item.name: item.size_bytes for item in result.disposals}
    assert sizes[f"{NAME} {old}"] == 5000 and sizes[other_parent] == sizes[old_deploy] == 600
    assert "version 1 (champion)" in result.kept


def test_without_apply_nothing_goes(history):
    history.version(60)
    before = (history.runs(), history.versions())
    result = history.clean(apply=False)
    assert len(result.disposals) == 2 and result.removed == 0
    assert (history.runs(), history.versions()) == before


def test_the_young_and_the_newest_stay(history):
    numbers = [history.version(days)[0] for days in (90, 80, 70, 60)]
    tests = [history.run("test", days) for days in (90, 80, 1)]
    history.clean(older_than_days=30, keep=1)
    assert set(history.runs()) >= {tests[-1]} and not {tests[0], tests[1]} & history.runs()
    # The versions themselves were registered just now.
    assert history.versions() == numbers[::-1]
    history.clean(older_than_days=0, keep=1)
    assert history.versions() == numbers[-1:]


@pytest.mark.slow
def test_evaluations_go_from_the_experiments_of_their_prompts(history):
    """But for what the gate and the monitor compare with: the newest of a prompt version that is in use."""
    import mlflow

    from genai_lifecycle.store import prompt_registry as registry

    number, _, _ = history.version(90, "champion")
    for name, alias in (("qa-live", "production"), ("qa-idle", "")):
        registry.register(name, "{{question}}", "", {})
        if alias:
            registry.set_alias(name, alias, 1)
    gone = [history.evaluation(80, "qa-live/1"), history.evaluation(60, "qa-idle/1")]
    kept = [history.evaluation(70, "qa-live/1"), history.evaluation(70, "qa-simple/1"),  # frozen in the champion
            history.evaluation(70, "qa-idle/1", model="another-model")]  # fmt: skip
    places = [item.experiment_id for item in mlflow.search_experiments() if item.name.endswith("-eval")]
    young = history.evaluation(1, "qa-idle/1")
    assert history.clean(older_than_days=30).removed == 2
    assert {run.run_id for run in inventory.runs(*places)} == {*kept, young}
    left = mlflow.search_traces(locations=places, return_type="list")
    assert {trace.info.trace_metadata["mlflow.sourceRun"] for trace in left} == {*kept, young} and gone


def test_answers_of_an_evaluation_that_nobody_took_up_again_go(history):
    ledgers = folder_of_ledgers(history.config.staging_dir)
    ledgers.mkdir(parents=True)
    for name, days in (("old", 40), ("young", 1)):
        file = ledgers / f"{name}.jsonl"
        file.write_text("x" * 1000)
        os.utime(file, (time.time() - days * 86_400,) * 2)
    [ledger] = history.clean(older_than_days=30).disposals
    assert (ledger.kind, ledger.size_bytes) == ("scratch", 1000) and "an evaluation" in ledger.why
    assert [file.name for file in ledgers.iterdir()] == ["young.jsonl"]


def test_a_run_under_way_and_somebody_elses_trash_stay(history):
    import mlflow

    under_way = history.run("experiment", 90, status="RUNNING")
    nested = history.run("template", 90, under_way)
    deleted = history.run("test", 90)
    mlflow.delete_run(deleted)
    history.clean()
    assert history.runs() == {under_way, nested, deleted}


def test_somebody_elses_trash_does_not_count_as_kept(history):
    import mlflow

    living, deleted = history.run("test", 90), history.run("test", 80)
    mlflow.delete_run(deleted)
    history.clean(keep=1)
    assert history.runs() == {living, deleted}


def test_a_version_that_gets_an_alias_meanwhile_stays(history, monkeypatch):
    number, run_id, folder = history.version(60)
    measured = inventory.size_bytes

    def measured_while_somebody_sets_an_alias(location):
        model_registry.set_alias(NAME, "champion", number)
        return measured(location)

    monkeypatch.setattr(inventory, "size_bytes", measured_while_somebody_sets_an_alias)
    result = history.clean()
    assert history.versions() == [number] and (folder / "MLmodel").is_file() and history.runs() == {run_id}
    assert [item.kind for item in result.disposals] == ["version", "run"] and result.removed == 0
    assert history.clean(apply=False).disposals == ()


def test_a_model_that_no_version_has_goes(history):
    import mlflow

    _, _, folder = history.version(60)
    mlflow.MlflowClient().delete_model_version(NAME, "1")
    assert [item.kind for item in history.clean().disposals] == ["model", "run"]
    assert not folder.parent.exists() and history.runs() == set()


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 3])  # the files of a version, those of a nested run
def test_killed_while_it_removes_files_the_same_command_goes_on(history, tmp_path, call):
    history.experiment(90)
    _, _, folder = history.version(80)
    kept, kept_run, kept_folder = history.version(70, "champion", weights="other")
    newest = set(history.experiment(60, weights="other"))
    given = [
        "--mode", "clean", "--older-than", "0", "--keep", "0", "--apply", "--data-dir", history.config.data_dir,
        "--tracking-uri", history.config.tracking_uri,
    ]  # fmt: skip
    killed = run_cli(given, killed_at=("genai_lifecycle.store.maintenance.trash._remove_files", call))
    assert killed.returncode == -9
    assert all((Path(version.location) / "MLmodel").is_file() for version in inventory.versions(NAME))
    done = run_cli(given)
    assert done.returncode == 0, done.stderr
    assert history.versions() == [kept] and history.runs() == {kept_run, *newest}
    assert kept_folder.is_dir() and not folder.parent.exists()
    assert history.clean(apply=False).disposals == ()


# --- files that are not ours, or not ours alone ---------------------------------------------------


def by_path(folder: Path | str, name: str = "another-model") -> str:
    """A version that somebody registered by the address of its files; its number."""
    import mlflow

    return str(mlflow.register_model(str(folder), name).version)


def test_a_folder_that_was_registered_stays_when_its_version_goes(history, tmp_path):
    folder = tmp_path / "somebody's" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("x" * 1000)
    by_path(folder, NAME)
    [version] = history.clean().disposals
    assert (version.kind, version.size_bytes) == ("version", 0) and version.why.endswith("its files stay")
    assert history.versions() == [] and (folder / "MLmodel").is_file()


@pytest.mark.parametrize("how", ["path", "file address", "link", "part of it", "all of the artifacts"])
def test_a_logged_model_that_a_version_names_by_its_folder_stays(history, tmp_path, how):
    import mlflow

    _, _, folder = history.version(60)
    mlflow.MlflowClient().delete_model_version(NAME, "1")
    (tmp_path / "link").symlink_to(history.config.data_dir)
    (folder / "part").mkdir()
    places = {
        "path": folder, "file address": folder.as_uri(), "part of it": folder / "part",
        "link": tmp_path / "link" / folder.relative_to(history.config.data_dir),
        "all of the artifacts": history.config.data_dir,
    }  # fmt: skip
    by_path(places[how])
    kinds = [item.kind for item in history.clean().disposals]
    assert kinds == (["run"] if how != "all of the artifacts" else [])
    assert (folder / "MLmodel").is_file()
    by_path(places[how], NAME)  # and a version of our own that nobody needs changes nothing about it
    history.clean()
    assert (folder / "MLmodel").is_file() and history.versions() == []


def test_of_two_versions_with_the_same_files_the_one_that_goes_leaves_them(history):
    old, _, folder = history.version(60)
    champion = by_path(folder, NAME)
    model_registry.set_alias(NAME, "champion", champion)
    result = history.clean()
    assert [item.name for item in result.disposals if item.kind == "version"] == [f"{NAME} {old}"]
    assert history.versions() == [champion] and (folder / "MLmodel").is_file()
    assert "1 whose files are not ours or not theirs alone" in result.kept


def test_the_source_of_a_copy_stays_when_the_version_it_was_copied_from_is_gone(history):
    import mlflow

    number, _, folder = history.version(60)
    mlflow.MlflowClient().copy_model_version(f"models:/{NAME}/{number}", "another-model")
    mlflow.MlflowClient().delete_model_version(NAME, number)
    history.clean()
    assert (folder / "MLmodel").is_file()


@pytest.mark.parametrize("how", ["runs:/{run}/model", "{location}/model"])
def test_a_run_whose_files_another_model_has_stays(history, how):
    import mlflow

    run_id, other = history.run("experiment", 60), history.run("experiment", 50)
    history.run("experiment", 40)  # the newest one stays anyway
    mlflow.MlflowClient().log_text(run_id, "flavors: {}", "model/MLmodel")
    location = mlflow.get_run(run_id).info.artifact_uri
    number = by_path(how.format(run=run_id, location=location))
    assert [item.name for item in history.clean().disposals] == [other]
    assert run_id in history.runs()
    folder = Path(mlflow.MlflowClient().get_model_version_download_uri("another-model", number))
    assert (folder / "MLmodel").is_file()


def test_what_another_model_came_from_stays(history):
    """Another --registered-model-name in the same experiment."""
    import mlflow

    number, run_id, _ = history.version(60)
    source = mlflow.MlflowClient().get_model_version(NAME, number).source
    mlflow.MlflowClient().delete_model_version(NAME, number)
    model_registry.register("another-model", source.removeprefix("models:/"), run_id, {})
    assert history.clean().disposals == () and run_id in history.runs()


def test_runs_with_files_outside_the_artifact_root_stay_whole(history, tmp_path):
    import mlflow

    history.version(90, "champion")
    mlflow.MlflowClient().create_experiment("qa-live-eval", artifact_location=str(tmp_path / "elsewhere"))
    run_id = history.evaluation(80, "qa-live/1")
    history.evaluation(70, "qa-live/1")
    [place] = [found.experiment_id for found in mlflow.search_experiments() if found.name == "qa-live-eval"]
    assert history.clean().disposals == ()
    assert (tmp_path / "elsewhere" / run_id / "artifacts" / "report.md").is_file()
    assert len(mlflow.search_traces(locations=[place], return_type="list")) == 2


@pytest.mark.slow
def test_a_version_that_is_without_its_alias_because_a_rollback_was_killed_stays(history):
    _, _, folder = history.version(80, "previous")
    _, _, other = history.version(70, "champion", weights="other")
    killed = run_cli(
        ["--mode", "rollback", "--tracking-uri", history.config.tracking_uri, "--data-dir", history.config.data_dir],
        killed_at=("genai_lifecycle.store.model_registry.set_alias", 2),
    )
    assert killed.returncode == -9, killed.stderr
    assert model_registry.by_alias(NAME, "champion").version == "1"  # and version 2 has no alias
    history.clean()
    assert (folder / "MLmodel").is_file() and (other / "MLmodel").is_file()
    assert model_registry.by_alias(NAME, "previous").version == "2"


def test_files_that_get_a_second_owner_while_others_go_stay(history, monkeypatch):
    number, _, folder = history.version(60)
    remove = model_registry.remove_unless_named

    def removed_while_somebody_registers(name, version):
        by_path(folder)
        return remove(name, version)

    monkeypatch.setattr(model_registry, "remove_unless_named", removed_while_somebody_registers)
    history.clean()
    assert history.versions() == [] and (folder / "MLmodel").is_file() and number


# --- what killed commands left --------------------------------------------------------------------


def test_scratch_of_a_killed_stage_goes_and_of_a_living_one_stays(history):
    staging = history.config.staging_dir
    for name in ("scratch-deploy-dead", "scratch-deploy-living", "prompts"):
        (staging / name / "files").mkdir(parents=True)
        (staging / name / "files" / "weights").write_text("x" * 1000)
    with (staging / "scratch-deploy-living" / ".lifecycle.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = history.clean()
    assert {path.name for path in staging.iterdir()} == {"scratch-deploy-living", "prompts"}
    [scratch] = result.disposals
    assert scratch.kind == "scratch" and 1000 <= scratch.size_bytes < 1020  # with its lock file


def test_it_waits_for_no_other_run(history):
    with only_run_on(history.store.uri):
        with pytest.raises(Busy):
            MLflow3E2ELifecycle(history.config).clean(CleanSettings(apply=True))
        assert MLflow3E2ELifecycle(history.config, writes=False).clean().disposals == ()  # a look waits for nobody


def test_a_prompt_is_no_model_of_ours(history):
    from genai_lifecycle.store import prompt_registry as registry

    registry.register("qa-simple", "{{question}}", "a prompt", {})
    assert inventory.versions() == []
    assert history.clean(apply=False).disposals == ()
