"""Mode `evaluate`: prompt versions over a case file, through a registered model, scored and compared in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import CasesInvalid, ConfigError, NotFound
from genai_lifecycle.evaluation import judges
from genai_lifecycle.evaluation.case_files import CaseFile, read_case_file
from genai_lifecycle.evaluation.gate import load_policy
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.evaluation.runner import EvaluatedModel, Evaluation, EvaluationRunner, Subject
from genai_lifecycle.prompts.promotion import promote_winner
from genai_lifecycle.prompts.references import look_up
from genai_lifecycle.runtime import progress
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry, runs
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store, in_experiment

log = logging.getLogger(__name__)

COMPARISON_STAGE = "evaluation"  # of the run that holds the comparison; those of the prompts have runs.EVALUATE


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Which prompts on which versions, and what becomes of the best."""

    prompt: tuple[str, ...] = setting(
        (), "NAME@ALIAS, NAME/VERSION or NAME, may be given again; else the case file's, else the model's own",
        metavar="PROMPT",
    )  # fmt: skip
    model_version: tuple[str, ...] = setting(
        (), "number or alias, may be given again; the champion, else the candidate, when left out", metavar="VERSION"
    )
    scorer: tuple[str, ...] = setting(
        (), "a scorer of mlflow.genai, for example Correctness; may be given again", metavar="NAME"
    )
    label: str | None = setting(
        None, "a word to find the runs by; the case file's name when left out", metavar="WORD"
    )  # fmt: skip
    promote: bool = setting(False, "the best prompt goes into production where the gate lets it")


def run_evaluation(config: E2EConfig, store: Store, settings: EvaluateSettings) -> EvaluationResult:
    """Answer every case with every prompt and model version, score, compare, and leave all of it in MLflow.

    Interrupted and run again, the answers that were computed are not computed again. With `settings.promote` the
    winner goes into production where the gate lets it.

    Raises:
        CasesInvalid: the case file cannot be used, or lacks a variable that a prompt needs.
        NotFound: there is no such prompt, or no such model version.
        TrackingUnavailable: MLflow did not keep every row.
    """
    policy, found = load_policy(config.gate, "prompt"), read_case_file(config.cases)
    for sentence in found.left_out:
        log.warning("%s: %s.", config.cases.name, sentence)
    versions = [_version(config, name) for name in settings.model_version or ("",)]
    evaluation = _evaluation(config, settings, found)
    total = len(found.cases) * len(versions) * len(_prompts(settings, found, None))
    with progress.steps("Answering", total) as answered, progress.steps("Storing", total) as stored:
        runner = EvaluationRunner(evaluation, answered, stored)
        for version in versions:
            _run_version(config, store, settings, found, version, len(versions), runner)
    place = in_experiment(store, config, config.experiment_name)
    with runs.run("evaluation", COMPARISON_STAGE) as run_id:
        result = runner.compare(run_id, place, policy.metric, found.left_out)
    runner.close()
    if not settings.promote:
        return result
    _require_registered(result.winner.prompt)
    evidence = runner.evidence_of(result.winner.model_version)
    return promote_winner(result, policy, evidence, override=config.override_gate)


def _evaluation(config: E2EConfig, settings: EvaluateSettings, found: CaseFile) -> Evaluation:
    return Evaluation(
        cases=found.cases,
        cases_file=config.cases.name,
        label=settings.label or config.cases.stem,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        judges=judges.choose(settings.scorer, config.judge_model),
        staging_dir=config.staging_dir,
    )


def _run_version(
    config: E2EConfig,
    store: Store,
    settings: EvaluateSettings,
    found: CaseFile,
    version: ModelVersion,
    versions: int,
    runner: EvaluationRunner,
) -> None:
    """Every prompt on one model version, each in its own experiment."""
    from genai_lifecycle.models.generation import answer_cases

    with _answering(version) as model:
        for subject in _subjects(config, settings, found, version, model.prompt, versions):
            place = in_experiment(store, config, _experiment_name(config, subject.prompt))
            runs.close_dead_runs(place)
            template, max_new_tokens = subject.prompt.template, config.max_new_tokens
            runner.run(subject, place, partial(answer_cases, model.text_model, template, max_new_tokens=max_new_tokens))


def _experiment_name(config: E2EConfig, prompt: PromptRef) -> str:
    """An experiment of the prompt's own, unless one was named."""
    is_named = config.experiment_name != E2EConfig.experiment_name
    return config.experiment_name if is_named else f"{prompt.name}-eval"


def _require_registered(prompt: PromptRef) -> None:
    if prompt.version is None:
        raise ConfigError(
            f"{prompt.name} is not in the prompt registry.",
            hint="Register it: --mode prompts create, then evaluate it with --prompt.",
        )


# --- what is evaluated ----------------------------------------------------------------------------


def _version(config: E2EConfig, wanted: str) -> ModelVersion:
    """A number or an alias of the registered model; without one the champion, or the candidate."""
    name = config.registered_model_name
    if not wanted:
        found = model_registry.by_alias(name, model_registry.CHAMPION)
        return found or model_registry.candidate(name)
    found = (model_registry.by_version if wanted.isdigit() else model_registry.by_alias)(name, wanted)
    if found is None:
        raise NotFound(f"There is no version {wanted!r} of {name!r}.", hint="Use a number or an alias; see --mode ui.")
    return found


@contextmanager
def _answering(version: ModelVersion) -> Iterator[Any]:
    """The version's `QuestionModel` with its engine, in this process."""
    model = model_registry.load(version.uri).unwrap_python_model().model
    try:
        yield model
    finally:
        model.close()


def _prompts(settings: EvaluateSettings, found: CaseFile, own: Mapping[str, Any] | None) -> list[PromptRef]:
    """The prompts named, else those in the case file, else the model's own (counted as one when not known yet)."""
    if settings.prompt:
        return [look_up(text) for text in settings.prompt]
    if found.prompts:
        return [PromptRef(name, None, template) for name, template in found.prompts.items()]
    return [PromptRef(own["name"], own["version"], own["template"]) if own else PromptRef("", None, "")]


def _subjects(
    config: E2EConfig,
    settings: EvaluateSettings,
    found: CaseFile,
    version: ModelVersion,
    own: Mapping[str, Any],
    versions: int,
) -> list[Subject]:
    prompts = list({str(prompt): prompt for prompt in _prompts(settings, found, own)}.values())
    for prompt in prompts:
        _require_variables(config, prompt, found)
    suffix = f" on version {version.version}" if versions > 1 else ""
    return [Subject(f"{_short(prompt)}{suffix}", prompt, _model(version)) for prompt in prompts]


def _model(version: ModelVersion) -> EvaluatedModel:
    model_id = version.source.rpartition("/")[2]
    return EvaluatedModel(
        name=version.tags.get("model", version.name),
        weights_sha256=version.tags.get("weights_sha256", ""),
        registered_name=version.name,
        version=version.version,
        model_id=model_id if model_id.startswith("m-") else None,
    )


def _short(prompt: PromptRef) -> str:
    return prompt.label if prompt.version else prompt.name


def _require_variables(config: E2EConfig, prompt: PromptRef, found: CaseFile) -> None:
    from genai_lifecycle.models.generation import variables_of

    needed = variables_of(prompt.template)
    for case, line in zip(found.cases, found.lines, strict=True):
        missing = [name for name in needed if name not in case.inputs]
        if missing:
            raise CasesInvalid(
                f"{config.cases}, line {line}: the prompt {_short(prompt)} needs the variable {missing[0]!r}.",
                hint=f"It has {', '.join(needed)}; give each case a value for all of them, or name another prompt.",
            )
