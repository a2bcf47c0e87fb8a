"""`run_all`: the stages in order, and what an export that is declined, or fails, means for the rest."""

from __future__ import annotations

from functools import partial

import pytest

from genai_lifecycle.errors import BundleError, ExportDeclined
from genai_lifecycle.lifecycle import MLflow3E2ELifecycle
from genai_lifecycle.settings import Settings
from genai_lifecycle.stages.deploy import DeploySettings
from genai_lifecycle.stages.export import ExportSettings
from genai_lifecycle.stages.serve import ServeSettings

STAGES = ("experiment", "deploy", "test", "serve", "export")


@pytest.fixture
def lifecycle(make_config, store, monkeypatch):
    """A life whose stages return their names, and that of the stage whose result they were given."""
    lifecycle = MLflow3E2ELifecycle(make_config())
    monkeypatch.setitem(vars(lifecycle), "store", store)
    lifecycle.settings = {}

    def stage(*given, name: str, **more) -> str:
        results = [value for value in (*given, *more.values()) if isinstance(value, str)]
        lifecycle.settings[name] = [value for value in given if isinstance(value, Settings)]
        return " after ".join([name, *results])

    for name in STAGES:
        monkeypatch.setattr(lifecycle, name, partial(stage, name=name))
    return lifecycle


def raising(error: Exception):
    def stage(settings):
        raise error

    return stage


def test_the_export_comes_last(lifecycle):
    told = []
    result = lifecycle.run_all(lambda stage, result: told.append((stage, result)))
    assert [stage for stage, _ in told] == list(STAGES)
    assert dict(told)["deploy"] == "deploy after experiment", "what was found is handed on, not looked up again"
    assert dict(told)["test"] == "test after deploy after experiment"
    assert tuple(result.seconds) == STAGES
    assert (result.export, result.export_declined) == ("export", "")


def test_each_stage_gets_its_settings(lifecycle):
    deploy, serve, export = DeploySettings(precision="fp32"), ServeSettings(port=5099), ExportSettings(wheels=True)
    lifecycle.run_all(deploy=deploy, serve=serve, export=export)
    assert lifecycle.settings == {
        "experiment": [], "deploy": [deploy], "test": [], "serve": [serve], "export": [export]
    }  # fmt: skip


def test_an_export_that_is_declined_is_told_and_no_failure(lifecycle, monkeypatch):
    declined = ExportDeclined("It answers with torch.", hint="Serve it.")
    monkeypatch.setattr(lifecycle, "export", raising(declined))
    result = lifecycle.run_all()
    assert result.export is None and result.report.startswith("test")
    assert result.export_declined == "It answers with torch.\n  -> Serve it."


def test_an_export_that_fails_is_a_failure(lifecycle, monkeypatch):
    monkeypatch.setattr(lifecycle, "export", raising(BundleError("The disk is full.")))
    with pytest.raises(BundleError, match="full"):
        lifecycle.run_all()
