"""Stage `evaluate`: prompt versions over a case file, through a registered model, scored and compared in MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import CasesInvalid, ConfigError, NotFound
from genai_lifecycle.evaluation import judges, report
from genai_lifecycle.evaluation.answer_cache import Kept, Ledger
from genai_lifecycle.evaluation.answering import answered_batches
from genai_lifecycle.evaluation.case_files import CaseFile, read_case_file
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.evidence import Evidence, write_scores
from genai_lifecycle.evaluation.gate import Decision, load_policy
from genai_lifecycle.evaluation.results import Evaluated, EvaluationReport
from genai_lifecycle.evaluation.scoring import evidence_of, metrics_of, row_of, table_of
from genai_lifecycle.evaluation.statistics import Verdict, mean_interval, verdict
from genai_lifecycle.models.generation import cached_answers, variables_of
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.references import look_up
from genai_lifecycle.runtime import progress
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.store import evaluations, model_registry, runs, traces
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.evaluations import Assessed
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store, in_experiment

log = logging.getLogger(__name__)

TEMPERATURE = 0.0  # greedy: the same answer every time, so two prompts differ by their text alone
JUDGES = ("Correctness", "RelevanceToQuery")  # asked when a judge is configured and no scorer is named
COMPARISON_STAGE = "evaluation"  # of the run that holds the comparison; those of the prompts have evaluations.STAGE


@dataclass(frozen=True)
class Item:
    """One prompt version to be evaluated on one model version."""

    label: str
    prompt: PromptRef
    version: ModelVersion


@dataclass
class Clock:
    """Where the time went."""

    compute_s: float = 0.0
    mlflow_s: float = 0.0
    reused: int = 0

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.monotonic() - started)


@dataclass(frozen=True)
class Done:
    """All that one run found out."""

    evaluated: Evaluated
    experiment_id: str
    evidence: Evidence
    table: list[dict[str, object]]
    assessed: Assessed


def run_evaluation(config: E2EConfig, store: Store) -> EvaluationReport:
    """Answer every case with every prompt and model version, score, compare, and leave all of it in MLflow.

    Interrupted and run again, the answers that were computed are not computed again. With `config.promote` the
    winner goes into production where the gate lets it.

    Raises:
        CasesInvalid: the case file cannot be used, or lacks a variable that a prompt needs.
        NotFound: there is no such prompt, or no such model version.
        TrackingUnavailable: MLflow did not keep every row.
    """
    found = read_case_file(config.cases)
    for sentence in found.left_out:
        log.warning("%s: %s.", config.cases.name, sentence)
    versions = [_version(config, name) for name in config.model_version or ("",)]
    judged_by = evaluations.judges(*_wanted_judges(config))
    clock, done, ledgers = Clock(), [], []
    total = len(found.cases) * len(versions) * len(_prompts(config, found, None))
    with progress.steps("Answering", total) as answered, progress.steps("Storing", total) as stored:
        for version in versions:
            with _answering(version) as model:
                for item in _items(config, found, version, model.prompt, len(versions)):
                    ledgers.append(_ledger(config, item, found))
                    done.append(_evaluate(config, store, found, item, model.text_model, ledgers[-1], judged_by, clock,
                                          answered, stored))  # fmt: skip
    result = _conclude(config, store, found, done, clock)
    for ledger in ledgers:
        ledger.close()
    return result


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


def _prompts(config: E2EConfig, found: CaseFile, own: Mapping[str, Any] | None) -> list[PromptRef]:
    """The prompts named, else those in the case file, else the model's own (counted as one when not known yet)."""
    if config.prompt:
        return [look_up(text) for text in config.prompt]
    if found.prompts:
        return [PromptRef(name, None, template) for name, template in found.prompts.items()]
    return [PromptRef(own["name"], own["version"], own["template"]) if own else PromptRef("", None, "")]


def _items(
    config: E2EConfig, found: CaseFile, version: ModelVersion, own: Mapping[str, Any], versions: int
) -> list[Item]:
    prompts = list({str(prompt): prompt for prompt in _prompts(config, found, own)}.values())
    for prompt in prompts:
        _require_variables(config, prompt, found)
    suffix = f" on version {version.version}" if versions > 1 else ""
    return [Item(f"{_short(prompt)}{suffix}", prompt, version) for prompt in prompts]


def _short(prompt: PromptRef) -> str:
    return str(prompt) if prompt.version else prompt.name


def _require_variables(config: E2EConfig, prompt: PromptRef, found: CaseFile) -> None:
    needed = variables_of(prompt.template)
    for case, line in zip(found.cases, found.lines, strict=True):
        missing = [name for name in needed if name not in case.inputs]
        if missing:
            raise CasesInvalid(
                f"{config.cases}, line {line}: the prompt {_short(prompt)} needs the variable {missing[0]!r}.",
                hint=f"It has {', '.join(needed)}; give each case a value for all of them, or name another prompt.",
            )


def _wanted_judges(config: E2EConfig) -> tuple[Sequence[str], str | None]:
    if config.scorer:
        return config.scorer, config.judge_model
    return (JUDGES if config.judge_model and not judges.why_not(config.judge_model) else ()), config.judge_model


# --- one prompt on one model version --------------------------------------------------------------


def _ledger(config: E2EConfig, item: Item, found: CaseFile) -> Ledger:
    identity = _parameters(config) | {"prompt": str(item.prompt), "template": item.prompt.template}
    return Ledger(config.staging_dir, identity | {"model": item.version.source, "model_name": item.version.name})


def _parameters(config: E2EConfig) -> dict[str, object]:
    return {"max_new_tokens": config.max_new_tokens, "temperature": TEMPERATURE, "seed": config.seed}


def _evaluate(
    config: E2EConfig, store: Store, found: CaseFile, item: Item, text_model: Any, ledger: Ledger,
    judged_by: Sequence[Any], clock: Clock, answered: Callable[[int], None], stored: Callable[[int], None],
) -> Done:  # fmt: skip
    """One run in the prompt's own experiment: answers, traces, scores, assessments."""
    cases = found.cases
    place = in_experiment(store, config, _experiment_name(config, item))
    runs.close_dead_runs(place)
    with runs.run(item.label, evaluations.STAGE, tags=runs.linked(item.prompt)) as run_id:
        kept = _answers(config, item, cases, text_model, ledger, clock, answered, run_id)
        with clock.of("compute_s"):
            rows = [row_of(case, answer) for case, answer in zip(cases, kept, strict=True)]
        with clock.of("mlflow_s"):
            traces.flush(len(cases), lambda: traces.count([run_id], place.experiment_id))
            assessed = evaluations.evaluate(place, run_id, rows, judged_by, stored, _dataset_name(config, found))
        evidence = evidence_of(item.label, cases, kept, rows)
        metrics = metrics_of(kept, evidence)
        runs.log_results(_params(config, item, found), metrics | _judged(assessed))
        with scratch_folder(config.staging_dir, "scores") as folder:
            write_scores(folder, evidence)
            runs.log_folder(folder)
    intervals = {name: mean_interval(values, config.seed) for name, values in evidence.scores.items()}
    evaluated = Evaluated(item.label, item.prompt, item.version.version, run_id, place.experiment_name, metrics,
                          intervals)  # fmt: skip
    return Done(evaluated, place.experiment_id, evidence, [*table_of(item.label, cases, kept, rows)], assessed)


def _experiment_name(config: E2EConfig, item: Item) -> str:
    """An experiment of the prompt's own, unless one was named."""
    default = next(field.default for field in fields(E2EConfig) if field.name == "experiment_name")
    return f"{item.prompt.name}-eval" if config.experiment_name == default else config.experiment_name


def _answers(
    config: E2EConfig, item: Item, cases: Sequence[Case], text_model: Any, ledger: Ledger, clock: Clock,
    answered: Callable[[int], None], run_id: str,
) -> list[Kept]:  # fmt: skip
    """Every case's answer; each batch's traces are written as it is there."""
    found: list[Kept] = []
    answer = partial(cached_answers, text_model, item.prompt.template, max_new_tokens=config.max_new_tokens)
    for batch in answered_batches(cases, ledger, answer):
        clock.compute_s += batch.compute_s
        clock.reused += batch.reused
        with clock.of("mlflow_s"):
            numbered = enumerate(zip(batch.cases, batch.kept, strict=True), batch.start)
            traces.write([_trace(item, number, *both) for number, both in numbered], run_id, item.prompt)
        found += batch.kept
        answered(len(batch.kept))
    return found


def _trace(item: Item, number: int, case: Case, kept: Kept) -> traces.AnswerTrace:
    """render -> generate; MLflow keeps the scores as assessments. Its times are those of the batch it was in."""
    usage = {"input_tokens": kept.prompt_tokens, "output_tokens": kept.completion_tokens,
             "total_tokens": kept.prompt_tokens + kept.completion_tokens}  # fmt: skip
    render = traces.Step("render", "PARSER", kept.start_ns, kept.start_ns, case.inputs, {"prompt": kept.prompt})
    generate = traces.Step(
        "generate", "LLM", kept.start_ns, kept.generated_ns, {"prompt": kept.prompt},
        {"answer": kept.text, "finish_reason": kept.finish_reason}, {"mlflow.chat.tokenUsage": usage},
    )  # fmt: skip
    tags = {evaluations.CASE_TAG: str(number), "template": item.prompt.name,
            "prompt_version": str(item.prompt.version or ""), "model_version": item.version.version}  # fmt: skip
    return traces.AnswerTrace(case.question, kept.text, (render, generate), tags, case.inputs, _model_id(item.version))


def _model_id(version: ModelVersion) -> str | None:
    name = version.source.rpartition("/")[2]
    return name if name.startswith("m-") else None


def _judged(assessed: Assessed) -> dict[str, float]:
    return {"judge_failures": float(assessed.judge_failures)} if assessed.judge_failures else {}


def _params(config: E2EConfig, item: Item, found: CaseFile) -> dict[str, object]:
    count = len(found.cases)
    shown = found.cases[0].question if count == 1 else f"{config.cases.name}: {count} cases"
    return {
        "prompt": str(item.prompt) if item.prompt.version else item.prompt.name,
        "prompt_name": item.prompt.name,
        "prompt_version": item.prompt.version or "",
        "template": item.prompt.template,
        "model": item.version.tags.get("model", item.version.name),
        "model_name": item.version.name,
        "model_version": item.version.version,
        "input": shown[:500],
        "label": config.label or config.cases.stem,
        "cases": count,
        "cases_file": config.cases.name,
        "cases_sha256": cases_sha256(found.cases),
    } | _parameters(config)


# --- conclusion -----------------------------------------------------------------------------------


def _conclude(config: E2EConfig, store: Store, found: CaseFile, done: Sequence[Done], clock: Clock) -> EvaluationReport:
    """Verdict, dataset, artifacts and, where it was asked for, the alias; in a run of the main experiment."""
    policy = load_policy(config.gate, "prompt")
    metric = _metric(policy.metric, done)
    decided = _verdict(config, done, metric)
    ranked = sorted(done, key=lambda item: -item.evaluated.metrics.get(metric or "", 0.0))
    place = in_experiment(store, config, config.experiment_name)
    with runs.run("evaluation", COMPARISON_STAGE) as run_id:
        with clock.of("mlflow_s"):
            places = dict.fromkeys([place.experiment_id, *(item.experiment_id for item in done)])
            dataset = evaluations.register_dataset(list(places), _dataset_name(config, found), _records(found))
        result = EvaluationReport(
            run_id, tuple(item.evaluated for item in ranked), decided, None, len(found.cases),
            sum(item.assessed.rows for item in done), clock.reused, _judge_said(config, done), dataset,
            found.left_out, clock.compute_s, clock.mlflow_s,
        )  # fmt: skip
        _log_comparison(config, result, found, [row for item in ranked for row in item.table])
    if not config.promote:
        return result
    best = ranked[0] if decided is None else _winner(done, decided)
    decision, stays = _promote(config, best, done, run_id)
    return replace(result, decision=decision, in_production=stays)


def _metric(wanted: str, done: Sequence[Done]) -> str | None:
    """The gate's own metric, else the first other one that every case of every prompt has."""
    for name in dict.fromkeys([wanted, "token_f1", "passed"]):
        if all(name in item.evidence.scores for item in done):
            return name
    return None


def _verdict(config: E2EConfig, done: Sequence[Done], metric: str | None) -> Verdict | None:
    if metric is None or len(done) < 2:
        return None
    scores = {item.evaluated.label: item.evidence.scores[metric] for item in done}
    names = {item.evaluated.prompt.name for item in done if item.evaluated.prompt.version}
    live = {str(prompt) for prompt in registry.in_production(sorted(names))}
    incumbents = [item.evaluated.label for item in done if str(item.evaluated.prompt) in live]
    incumbent = incumbents[0] if len(incumbents) == 1 else None
    return verdict(scores, metric=metric, seed=config.seed, incumbent=incumbent)


def _winner(done: Sequence[Done], decided: Verdict) -> Done:
    return next(item for item in done if item.evaluated.label == decided.winner)


def _dataset_name(config: E2EConfig, found: CaseFile) -> str:
    return f"{config.cases.stem}-{cases_sha256(found.cases)[:8]}"


def _records(found: CaseFile) -> list[dict[str, Any]]:
    return [
        {"inputs": case.inputs, "expectations": {"expected_response": case.reference} if case.reference else {}}
        for case in found.cases
    ]


def _judge_said(config: E2EConfig, done: Sequence[Done]) -> str:
    names = _wanted_judges(config)[0]
    if not names:
        return f"skipped: {judges.why_not(config.judge_model)}"
    failed = sum(item.assessed.judge_failures for item in done)
    said = f"{', '.join(names)} by {config.judge_model}" if config.judge_model else ", ".join(names)
    return f"{said}; {failed} answers were not judged" if failed else said


def _log_comparison(
    config: E2EConfig, result: EvaluationReport, found: CaseFile, table: Sequence[Mapping[str, object]]
) -> None:
    params = {
        "prompts": ", ".join(item.label for item in result.evaluated), "cases": result.cases,
        "cases_file": config.cases.name, "cases_sha256": cases_sha256(found.cases),
        "label": config.label or config.cases.stem, "dataset": result.dataset or "",
    }  # fmt: skip
    runs.log_results(params, {"rows": result.rows, "compute_s": result.compute_s, "mlflow_s": result.mlflow_s})
    with scratch_folder(config.staging_dir, "evaluate") as folder:
        report.write_evaluation(folder, result, table)
        runs.log_folder(folder)
    runs.describe(report.evaluation_markdown(result))


def _promote(
    config: E2EConfig, best: Done, done: Sequence[Done], run_id: str
) -> tuple[Decision | None, PromptRef | None]:
    """Ask the gate about the best prompt; `verdict.json` has what it said.

    Returns:
        The decision (None: it is in production already), and which version of its prompt is in production now.
    """
    prompt = best.evaluated.prompt
    if prompt.version is None:
        raise ConfigError(
            f"{prompt.name} is not in the prompt registry.",
            hint="Register it: --mode prompts create, then evaluate it with --prompt.",
        )
    registry.settle(prompt.name)
    stored = registry.require(prompt.name)
    if stored.aliases.get(registry.PRODUCTION) == prompt.version:
        return None, prompt
    evidence = {str(item.evaluated.prompt): item.evidence for item in done
                if item.evaluated.model_version == best.evaluated.model_version}  # fmt: skip
    gate = promotion.Gate(load_policy(config.gate, "prompt"), evidence.get, config.seed)
    version = registry.version_of(stored, prompt.version)
    decision = promotion.promote(stored, version, gate, override=config.override_gate)
    evaluations.attach_decision(run_id, {"subject": str(prompt), **asdict(decision)})
    return decision, prompt if decision.allowed else next(iter(registry.in_production([prompt.name])), None)
