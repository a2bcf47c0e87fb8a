"""Which engine answers, and why: the OpenVINO engine where the package has a converted model, else torch."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import read_limits
from .engine import Engine
from .errors import EngineFailed, bad_input

log = logging.getLogger(__name__)

AUTO, OPENVINO, TORCH = "auto", "openvino", "torch"
CONVERSION_FILE = "conversion.json"


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for: `model_config` of the load beats ENGINE and THREADS of the environment."""

    engine: str = AUTO
    threads: int = 0  # 0 = what this process may use

    @classmethod
    def from_settings(cls, model_config: Mapping[str, Any] | None) -> Wanted:
        given = model_config or {}
        engine = given.get("engine") or AUTO
        if engine == AUTO:
            engine = os.environ.get("ENGINE") or AUTO
        if engine not in (AUTO, OPENVINO, TORCH):
            raise bad_input(f"ENGINE is {engine!r}; use {AUTO}, {OPENVINO} or {TORCH}.")
        threads = given.get("threads") or os.environ.get("THREADS") or 0
        if not re.fullmatch(r"[0-9]{1,4}", str(threads)):
            raise bad_input(f"THREADS is {threads!r}; use a whole number, 0 for all that this process may use.")
        return cls(engine, int(threads))


@dataclass(frozen=True)
class Chosen:
    """A running engine, with the reason why it is this one."""

    engine: Engine
    reason: str


def choose_engine(model: Path, ir: Path | None, wanted: Wanted) -> Chosen:
    """Start the wanted engine; `auto` takes OpenVINO where it can, and says why where it cannot.

    Args:
        model: checkpoint in HuggingFace format.
        ir: folder of the converted model with its conversion.json, or None.

    Raises:
        MlflowException: the engine that was asked for by name cannot run here.
    """
    threads = wanted.threads or usable_cpus()
    if wanted.engine == TORCH:
        return _announced(Chosen(_torch(model, threads), "asked for"))
    hindrance = _hindrance(ir)
    if wanted.engine == OPENVINO and hindrance:
        raise bad_input(f"The engine {OPENVINO!r} cannot run: {hindrance}.")
    if not hindrance:
        try:
            reason = "asked for" if wanted.engine == OPENVINO else "the package has a converted model"
            return _announced(Chosen(_openvino(model, ir, threads), reason))
        except EngineFailed as exc:
            if wanted.engine == OPENVINO:
                raise
            hindrance = exc.message
    return _announced(Chosen(_torch(model, threads, hindrance), hindrance))


def _hindrance(ir: Path | None) -> str:
    """Why OpenVINO cannot run; empty where it can."""
    if ir is None:
        return "there is no converted model"
    try:
        conversion = json.loads((ir / CONVERSION_FILE).read_text("utf-8"))
        if not conversion["converted"]:
            return conversion["reason"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return f"the record of the conversion cannot be read ({type(exc).__name__})"
    return "" if importlib.util.find_spec("openvino_genai") else "openvino-genai is not installed"


def _openvino(model: Path, ir: Path, threads: int) -> Engine:
    from .openvino_engine import OpenVINOEngine

    conversion = json.loads((ir / CONVERSION_FILE).read_text("utf-8"))
    return OpenVINOEngine(ir, read_limits(model), threads, conversion["precision"])


def _torch(model: Path, threads: int, hindrance: str = "") -> Engine:
    from .torch_engine import TorchEngine

    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        because = f" The engine {OPENVINO!r} cannot run either: {hindrance}." if hindrance else ""
        raise bad_input(f"The engine {TORCH!r} cannot run: torch or transformers is not installed.{because}")
    return TorchEngine.load_from(model, threads)


def _announced(chosen: Chosen) -> Chosen:
    log.info("Answering with the engine %s: %s.", chosen.engine.name, chosen.reason)
    return chosen


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and a container's quota (cgroup v2 and v1), rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(allowed, quota) if quota else allowed)


def _cgroup_cpus() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text("ascii").strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text("ascii").strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else -(-int(quota) // int(period))
