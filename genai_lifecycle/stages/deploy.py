"""Stage `deploy`: model and winning prompt as an MLflow PyFunc, registered with the alias `candidate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.case_files import load_cases
from genai_lifecycle.evaluation.cases import Case, spread
from genai_lifecycle.models import packaging
from genai_lifecycle.models.fingerprint import artifacts_sha256
from genai_lifecycle.models.source import ModelSource
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry, runs
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store

if TYPE_CHECKING:  # torch, MLflow and LangChain come with them, and the settings below are read for --help
    from genai_lifecycle.models.conversion.precision import Conversion, Trial
    from genai_lifecycle.models.generation import Answer


@dataclass(frozen=True)
class DeploySettings(Settings):
    """How the checkpoint is converted."""

    precision: str = setting(
        "auto", "the openvino engine's weights",
        choices=("auto", "fp32", "int8"), env="PRECISION",
    )  # fmt: skip


@dataclass(frozen=True)
class DeploymentResult:
    """A new model version with the alias `candidate`."""

    model_version: ModelVersion
    model_id: str
    run_id: str
    prompt: PromptRef
    weights_sha256: str
    compute_s: float

    @property
    def name(self) -> str:
        return self.model_version.name

    @property
    def version(self) -> str:
        return self.model_version.version


log = logging.getLogger(__name__)

GOLDEN_CASES = 8  # enough to notice changed weights, few enough to replay at every start of a server


def deploy_model(
    config: E2EConfig,
    source: ModelSource,
    store: Store,
    prompt: PromptRef,
    metrics: Mapping[str, float],
    settings: DeploySettings,
) -> DeploymentResult:
    """Package `source` with `prompt` and register it; the alias `candidate` moves last.

    Args:
        metrics: of the prompt in its experiment; they are linked to the logged model.
    """
    cases = load_cases(config.cases)
    log.info("Packaging %s with prompt %s.", source.name, prompt)
    with (
        scratch_folder(config.staging_dir, "deploy") as folder,
        runs.run("deploy", "deploy", tags={"lifecycle.prompt": str(prompt)}) as run_id,
    ):
        packaging.stage(folder, source, prompt)
        engine, compute_s = _prepare(folder, config, settings, source, prompt, cases)
        model_id = packaging.log_model(
            folder, source, prompt,
            engine=engine, example_question=cases[0].question, max_new_tokens=config.max_new_tokens, metrics=metrics,
        )  # fmt: skip
        fingerprints = {
            "weights_sha256": source.weights_sha256,
            "artifacts_sha256": artifacts_sha256(folder, packaging.ARTIFACTS.values()),
            "entry_sha256": artifacts_sha256(packaging.stored_entry(model_id, folder), packaging.ENTRY),
        }
    return _register(config, source, store, prompt, model_id, run_id, compute_s, fingerprints)


def _prepare(
    folder: Path,
    config: E2EConfig,
    settings: DeploySettings,
    source: ModelSource,
    prompt: PromptRef,
    cases: Sequence[Case],
) -> tuple[str, float]:
    """Convert the staged checkpoint and record its golden answers; returns the engine's name and compute seconds."""
    from genai_lifecycle.models.conversion.precision import Trial
    from genai_lifecycle.models.generation import greedy_answers, load_text_model

    questions = [case.question for case in spread(cases, GOLDEN_CASES)]
    started = time.monotonic()
    with closing(load_text_model(str(folder / "model"), source.turn_format)) as reference:
        expected = greedy_answers(reference, prompt.template, questions, config.max_new_tokens)
    trial = Trial(
        source.turn_format, prompt.template, questions, [a.token_ids for a in expected], cases, config.max_new_tokens
    )
    conversion = _convert(folder, config.engine, settings.precision, trial)
    given = _answers(folder, source, prompt, questions, config, conversion) if conversion.converted else expected
    compute_s = time.monotonic() - started
    packaging.write_golden(folder, _golden(questions, given, expected, config.max_new_tokens))
    params = source.as_params() | {"prompt": str(prompt), "precision": conversion.precision}
    engine = "openvino" if conversion.converted else "torch"
    runs.log_results(params | {"engine": engine, "engine_reason": conversion.reason}, conversion.figures)
    return engine, compute_s


def _convert(folder: Path, engine: str, precision: str, trial: Trial) -> Conversion:
    from genai_lifecycle.models.conversion.precision import convert_checkpoint, not_converted

    if engine == "torch":
        return not_converted(folder / "ir", "the engine 'torch' was asked for at deploy")
    return convert_checkpoint(folder / "model", folder / "ir", trial, precision)


def _answers(
    folder: Path,
    source: ModelSource,
    prompt: PromptRef,
    questions: Sequence[str],
    config: E2EConfig,
    conversion: Conversion,
) -> list[Answer]:
    """Greedy answers of the converted model, one question at a time as a caller would ask them."""
    from genai_lifecycle.models.generation import greedy_answers, load_converted

    with closing(
        load_converted(folder / "model", folder / "ir", source.turn_format, conversion.precision)
    ) as text_model:
        return greedy_answers(text_model, prompt.template, questions, config.max_new_tokens)


def _golden(
    questions: Sequence[str], given: Sequence[Answer], expected: Sequence[Answer], max_new_tokens: int
) -> list[dict[str, object]]:
    """`token_ids` of the engine that will answer, and those of torch for whoever switches to it."""
    return [
        {
            "question": question,
            "answer": answer.answer,
            "token_ids": answer.token_ids,
            "torch_token_ids": torch_answer.token_ids,
            "max_new_tokens": max_new_tokens,
        }
        for question, answer, torch_answer in zip(questions, given, expected, strict=True)
    ]


def _register(
    config: E2EConfig,
    source: ModelSource,
    store: Store,
    prompt: PromptRef,
    model_id: str,
    run_id: str,
    compute_s: float,
    fingerprints: Mapping[str, str],
) -> DeploymentResult:
    """Register first, then the alias: a run killed in between leaves a version that nobody is sent to."""
    tags = {
        "prompt": str(prompt),
        "run_id": run_id,
        "model": source.name,
        "model_revision": source.revision or "",
    } | fingerprints
    made = model_registry.register(config.registered_model_name, model_id, run_id, tags)
    model_registry.set_alias(made.name, model_registry.CANDIDATE, made.version)
    return DeploymentResult(
        model_version=made,
        model_id=model_id,
        run_id=run_id,
        prompt=prompt,
        weights_sha256=source.weights_sha256,
        compute_s=compute_s,
    )
