"""A life in the current directory, every address relative: what is started elsewhere finds the same store."""

from __future__ import annotations

import os

import pytest
from cli_process import arguments_for, run_cli
from conftest import make_cases

from genai_lifecycle.models import bundle_place

pytestmark = pytest.mark.slow


def test_a_life_in_the_current_directory(tmp_path, tiny_gpt2):
    make_cases(tmp_path / "cases.jsonl")
    here = {"LIFECYCLE_STAGING_DIR": "staging", "LIFECYCLE_LOG_DIR": "logs", "LIFECYCLE_DATA_DIR": "data"}
    for mode, address in (
        ("experiment", {"MLFLOW_TRACKING_URI": "sqlite:///lab.db"}),
        ("deploy", {"MLFLOW_TRACKING_URI": "sqlite:///./lab.db?timeout=30"}),
        ("test", {"MLFLOW_TRACKING_URI": "sqlite:///lab.db"}),
        ("serve", {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/lab.db"}),
    ):
        flags = ("--override-gate", "--model", str(tiny_gpt2), "--cases", "cases.jsonl")
        done = run_cli(arguments_for(mode, *flags), cwd=tmp_path, **here, **address)
        assert done.returncode == 0, f"{mode}: {done.stdout}{done.stderr}"
    assert f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/lab.db " in done.stdout
    assert f"--tracking-uri sqlite:///{tmp_path}/lab.db --data-dir {tmp_path}/data" in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["cases.jsonl", "data", "lab.db", "staging"]


def test_no_bundle_takes_the_place_of_the_database_whatever_its_address_says(make_config, tmp_path):
    config = make_config(tracking_uri=f"sqlite:///{tmp_path}/lab.db?timeout=30")
    assert tmp_path / "lab.db" in bundle_place.kept(config)
