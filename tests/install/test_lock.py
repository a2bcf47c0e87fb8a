"""requirements.lock is in step with the requirements, whole, and good for every platform."""

from __future__ import annotations

import re

import pytest
from conftest import REPO

LISTS = ("requirements.txt", "requirements-dev.txt", "genai_server/requirements.txt")
TORCH = "torch"  # installed apart, by install/torch_build.py


def text(name: str) -> str:
    return (REPO / name).read_text("utf-8")


def pins(name: str) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;\\#]+)", text(name), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


@pytest.mark.parametrize("name", LISTS)
def test_every_pin_is_in_the_lock_at_its_version(name):
    wanted = {package: version for package, version in pins(name).items() if package != TORCH}
    locked = pins("requirements.lock")
    assert wanted and {package: locked.get(package) for package in wanted} == wanted, "make lock"


def test_every_requirement_is_pinned():
    for name in LISTS:
        lines = [line for line in text(name).splitlines() if line and not line.startswith(("#", "-r "))]
        assert len(lines) == len(pins(name)), name


def test_every_package_has_hashes_and_a_compiled_one_those_of_many_platforms():
    blocks = re.split(r"\n(?=[a-z0-9])", text("requirements.lock").split("\n", 2)[2])
    hashes = {block.split("==")[0]: len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)) for block in blocks}
    assert set(hashes) == set(pins("requirements.lock")) and min(hashes.values()) > 0
    assert min(hashes[name] for name in ("numpy", "orjson", "psutil", "pydantic-core")) > 10


def test_installing_checks_the_hashes():
    assert "pip install --quiet --no-deps --require-hashes -r requirements.lock\n" in text("Makefile")


def test_torch_is_left_out_with_everything_that_its_cuda_build_needs():
    cuda = [name for name in pins("requirements.lock") if re.match(r"nvidia-|cuda-|triton|torch$", name)]
    assert cuda == [], "name it in install/cuda.txt, and make lock"


def test_what_torch_needs_beside_cuda_is_there():
    """It is installed last, and finds it all at the locked versions."""
    from importlib.metadata import requires

    plain = [line for line in requires(TORCH) if ";" not in line]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in plain}
    assert {"sympy", "filelock"} <= names <= set(pins("requirements.lock"))


def test_no_index_and_no_path_of_a_machine_is_in_it():
    assert (
        re.findall(r"https?://|--index-url|--find-links|--trusted-host|/home/|/root/", text("requirements.lock")) == []
    )


def test_the_bundles_lock_has_the_same_versions_where_both_name_a_pin():
    ours = pins("requirements.txt") | pins("genai_server/requirements.txt")
    image = pins("demo_serving/package/requirements.lock")
    differing = {name for name in ours.keys() & image.keys() if ours[name] != image[name]}
    assert differing <= {"huggingface-hub"}, "of which the image uses nothing: tokenizers names it"
