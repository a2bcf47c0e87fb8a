"""What import-linter's contracts (pyproject.toml) cannot say: the seams, what --help may load, files that run alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# Only these modules of the orchestrator may touch MLflow.
MLFLOW_SEAMS = {"store", "models/packaging.py", "models/acceptance/probe.py"}
HEAVY = {"mlflow", "torch", "transformers", "scipy", "matplotlib", "pandas", "numpy", "langchain_core"}
HEAVY |= {"boto3", "botocore", "langchain_huggingface", "pydantic"}
# Imported by nothing that `--help` reaches.
MAY_IMPORT_HEAVY_AT_TOP = {"models/generation.py", "models/engine_pipeline.py", "models/acceptance/probe.py"}


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names imported in a file, anywhere or at its top level only."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def files_of(package: str) -> list[Path]:
    found = sorted((REPO / package).rglob("*.py"))
    assert found, f"{package} has no files; is the path right?"
    return found


def test_the_served_package_imports_itself_relatively_only():
    """It is loaded under a name made from its hash, so that two versions live in one process."""
    for path in files_of("served_model/text_generation"):
        assert "served_model" not in packages(imported(path)), path


def test_the_engines_process_knows_neither_torch_nor_us():
    worker = REPO / "served_model" / "text_generation" / "openvino_worker.py"
    assert packages(imported(worker)) - set(sys.stdlib_module_names) == {"numpy", "openvino", "openvino_genai"}


def test_only_the_conversion_touches_openvino():
    users = {path for path in files_of("genai_lifecycle") if packages(imported(path)) & {"openvino", "nncf"}}
    assert {path.parent.name for path in users} == {"conversion"}


@pytest.mark.parametrize("library", ["mlflow", "boto3", "botocore", "s3transfer"])
def test_only_the_seams_touch_the_outside(library):
    for path in files_of("genai_lifecycle"):
        place = path.relative_to(REPO / "genai_lifecycle").as_posix()
        seams = MLFLOW_SEAMS if library == "mlflow" else {"store/s3"}
        allowed = any(place == seam or place.startswith(f"{seam}/") for seam in seams)
        assert allowed or library not in packages(imported(path)), path


def test_nothing_heavy_is_imported_at_the_top_level():
    for path in files_of("genai_lifecycle"):
        place = path.relative_to(REPO / "genai_lifecycle").as_posix()
        if place not in MAY_IMPORT_HEAVY_AT_TOP:
            assert not packages(imported(path, top_level_only=True)) & HEAVY, path


def test_the_probe_imports_nothing_of_ours():
    probe = REPO / "genai_lifecycle" / "models" / "acceptance" / "probe.py"
    assert packages(imported(probe)) == {"hashlib", "json", "os", "sys", "time", "mlflow", "pandas"}


def test_the_architecture_page_lists_the_layers_as_the_contracts_have_them():
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    listed = {name: lines for name, lines in re.findall(r"```layers (\w+)\n(.*?)```", page, re.DOTALL)}
    layered = {item["containers"][0]: item["layers"] for item in contracts if item["type"] == "layers"}
    assert listed.keys() == layered.keys() == {"genai_lifecycle", "genai_server"}
    for package, layers in layered.items():
        assert [re.split(r"\s{2,}", line)[0] for line in listed[package].splitlines()] == layers
        there = {path.stem for path in (REPO / package).iterdir() if (path / "__init__.py").exists()}
        there |= {path.stem for path in (REPO / package).glob("*.py")} - {"__init__"}
        assert there == {name for layer in layers for name in layer.split(" | ")}
