"""Stage `deploy`: model and winning prompt as an MLflow PyFunc, registered with the alias `candidate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from genai_lifecycle import packaging
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.cases import load_cases, spread
from genai_lifecycle.generation import greedy_answers, load_text_model
from genai_lifecycle.model_source import ModelSource
from genai_lifecycle.results import DeploymentResult, PromptRef
from genai_lifecycle.scratch import scratch_folder
from genai_lifecycle.tracking import model_registry, runs
from genai_lifecycle.tracking.store import Store

log = logging.getLogger(__name__)

GOLDEN_CASES = 8  # enough to notice changed weights, few enough to replay at every start of a server


def deploy_model(
    config: E2EConfig, source: ModelSource, store: Store, prompt: PromptRef, metrics: Mapping[str, float]
) -> DeploymentResult:
    """Package `source` with `prompt` and register it; the alias `candidate` moves last.

    Args:
        metrics: of the prompt in its experiment; they are linked to the logged model.
    """
    questions = [case.question for case in spread(load_cases(config.cases), GOLDEN_CASES)]
    log.info("Packaging %s with prompt %s.", source.name, prompt)
    with (
        scratch_folder(config.staging_dir, "deploy") as folder,
        runs.run("deploy", "deploy", tags={"lifecycle.prompt": str(prompt)}) as run_id,
    ):
        packaging.stage(folder, source, prompt)
        started = time.monotonic()
        golden = _golden(folder / "model", source, prompt, questions, config.max_new_tokens)
        compute_s = time.monotonic() - started
        packaging.write_golden(folder, golden)
        runs.log_results(source.as_params() | {"prompt": str(prompt)}, {})
        model_id = packaging.log_model(
            folder, source, prompt,
            example_question=questions[0], max_new_tokens=config.max_new_tokens, metrics=metrics,
        )  # fmt: skip
    return _register(config, source, store, prompt, model_id, run_id, compute_s)


def _golden(
    model: Path, source: ModelSource, prompt: PromptRef, questions: Sequence[str], max_new_tokens: int
) -> list[dict[str, object]]:
    """Greedy answers of the staged files themselves, one question at a time as a caller would ask them."""
    text_model = load_text_model(str(model), source.turn_format)
    answers = greedy_answers(text_model, prompt.template, questions, max_new_tokens)
    return [
        {
            "question": question,
            "answer": answer.answer,
            "token_ids": answer.token_ids,
            "max_new_tokens": max_new_tokens,
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def _register(
    config: E2EConfig,
    source: ModelSource,
    store: Store,
    prompt: PromptRef,
    model_id: str,
    run_id: str,
    compute_s: float,
) -> DeploymentResult:
    """Register first, then the alias: a run killed in between leaves a version that nobody is sent to."""
    tags = {
        "prompt": str(prompt),
        "run_id": run_id,
        "model": source.name,
        "model_revision": source.revision or "",
        "weights_sha256": source.weights_sha256,
    }
    made = model_registry.register(config.registered_model_name, model_id, run_id, tags)
    model_registry.set_alias(made.name, model_registry.CANDIDATE, made.version)
    return DeploymentResult(
        name=made.name,
        version=made.version,
        model_id=model_id,
        run_id=run_id,
        prompt=prompt,
        weights_sha256=source.weights_sha256,
        compute_s=compute_s,
    )
