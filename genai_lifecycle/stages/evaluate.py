"""Stage `evaluate`: prompt versions over a case file, through a registered model, scored and compared in MLflow."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from genai_lifecycle import progress
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import CasesInvalid, ConfigError, NotFound
from genai_lifecycle.evaluation import judges, report
from genai_lifecycle.evaluation.case_files import CaseFile, read_case_file
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.checks import Answered, Finding, all_passed, run_check
from genai_lifecycle.evaluation.gate import Evidence, load_policy
from genai_lifecycle.evaluation.ledger import Kept, Ledger, key
from genai_lifecycle.evaluation.scorers import AGAINST_REFERENCE, repetition
from genai_lifecycle.evaluation.statistics import mean_interval, verdict
from genai_lifecycle.generation import BATCH, answer_texts, prompt_texts, text_log_likelihoods, variables_of
from genai_lifecycle.prompts import promotion, registry
from genai_lifecycle.prompts.references import look_up
from genai_lifecycle.results import Decision, Evaluated, EvaluationReport, PromptRef, Verdict
from genai_lifecycle.scratch import scratch_folder
from genai_lifecycle.tracking import evaluations, model_registry, runs, traces
from genai_lifecycle.tracking.evaluations import Assessed, Row
from genai_lifecycle.tracking.model_registry import ModelVersion
from genai_lifecycle.tracking.store import Store, in_experiment

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
    with runs.run(item.label, evaluations.STAGE) as run_id:
        kept = _answers(item, text_model, cases, config.max_new_tokens, ledger, clock, answered, run_id)
        with clock.of("compute_s"):
            rows = [_row(case, answer) for case, answer in zip(cases, kept, strict=True)]
        with clock.of("mlflow_s"):
            traces.flush(len(cases), lambda: traces.count([run_id], place.experiment_id))
            assessed = evaluations.evaluate(place, run_id, rows, judged_by, stored)
        evidence = _evidence(item.label, cases, kept, rows)
        metrics = _metrics(kept, evidence)
        runs.log_results(_params(config, item, found), metrics | _judged(assessed))
        with scratch_folder(config.staging_dir, "scores") as folder:
            evaluations.write_scores(folder, evidence)
            runs.log_folder(folder)
    intervals = {name: mean_interval(values, config.seed) for name, values in evidence.scores.items()}
    evaluated = Evaluated(item.label, item.prompt, item.version.version, run_id, _experiment_name(config, item),
                          metrics, intervals)  # fmt: skip
    return Done(evaluated, evidence, [*_table(item, cases, kept, rows)], assessed)


def _experiment_name(config: E2EConfig, item: Item) -> str:
    """An experiment of the prompt's own, unless one was named."""
    default = next(field.default for field in fields(E2EConfig) if field.name == "experiment_name")
    return f"{item.prompt.name}-eval" if config.experiment_name == default else config.experiment_name


def _answers(
    item: Item, text_model: Any, cases: Sequence[Case], max_new_tokens: int, ledger: Ledger, clock: Clock,
    answered: Callable[[int], None], run_id: str,
) -> list[Kept]:  # fmt: skip
    """Every case's answer, from the ledger or computed, in batches; each batch's traces are written as it is there."""
    found: list[Kept] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        names = [_case_key(start + i, case) for i, case in enumerate(batch)]
        missing = [i for i, name in enumerate(names) if ledger.get(name) is None]
        clock.reused += len(batch) - len(missing)
        with clock.of("compute_s"):
            made = _compute(item, text_model, [batch[i] for i in missing], max_new_tokens) if missing else []
            ledger.add((names[i], kept) for i, kept in zip(missing, made, strict=True))
        kept = [_known(ledger, name) for name in names]
        with clock.of("mlflow_s"):
            written = [_trace(item, start + i, case, kept[i]) for i, case in enumerate(batch)]
            traces.write(written, run_id, item.prompt)
        found += kept
        answered(len(batch))
    return found


def _case_key(number: int, case: Case) -> str:
    return key({"number": number, "inputs": case.inputs, "reference": case.reference})


def _known(ledger: Ledger, name: str) -> Kept:
    kept = ledger.get(name)
    if kept is None:
        raise KeyError(name)
    return kept


def _compute(item: Item, text_model: Any, cases: Sequence[Case], max_new_tokens: int) -> list[Kept]:
    start_ns = time.time_ns()
    texts = prompt_texts(item.prompt.template, cases)
    answers = answer_texts(text_model, texts, max_new_tokens)
    generated_ns = time.time_ns()
    likelihoods = text_log_likelihoods(text_model, texts, [case.reference for case in cases])
    end_ns = time.time_ns()
    return [
        Kept(answer.answer, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens,
             answer.total_s * 1000, likelihood, text, start_ns, min(start_ns + int(answer.total_s * 1e9), generated_ns),
             end_ns)
        for answer, text, likelihood in zip(answers, texts, likelihoods, strict=True)
    ]  # fmt: skip


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


# --- scores ---------------------------------------------------------------------------------------


def _row(case: Case, kept: Kept) -> Row:
    """The scores of one answer, and what its case asked for."""
    findings = [Finding(name, value, True, "", is_check=False) for name, value in _scores(case, kept).items()]
    if case.checks:
        answered = Answered(kept.text, case.reference, kept.finish_reason, kept.completion_tokens, kept.latency_ms,
                            kept.log_likelihood)  # fmt: skip
        made = _numbered([run_check(answered, check) for check in case.checks])
        passed = all_passed(made, case.threshold)
        why = "; ".join(f"{item.name}: {item.why}" for item in made if not item.passed)
        findings += [*made, Finding("passed", float(passed), passed, why)]
    return Row(findings, {"expected_response": case.reference} if case.reference else {})


def _scores(case: Case, kept: Kept) -> dict[str, float]:
    found = {"repetition": repetition(kept.text)}
    if not case.reference:
        return found
    likelihood = {} if kept.log_likelihood is None else {"log_likelihood": kept.log_likelihood}
    return {name: score(kept.text, case.reference) for name, score in AGAINST_REFERENCE.items()} | likelihood | found


def _numbered(findings: Sequence[Finding]) -> list[Finding]:
    """A case may make the same check twice; MLflow shows one assessment for each name."""
    seen: dict[str, int] = {}
    named = []
    for item in findings:
        seen[item.name] = seen.get(item.name, 0) + 1
        name = item.name if seen[item.name] == 1 else f"{item.name}-{seen[item.name]}"
        named.append(Finding(name, item.score, item.passed, item.why, item.weight))
    return named


def _evidence(label: str, cases: Sequence[Case], kept: Sequence[Kept], rows: Sequence[Row]) -> Evidence:
    """The scores that every case has: two prompts are compared case by case."""
    values = [{item.name: item.score for item in row.findings if not item.is_check or item.name == "passed"}
              for row in rows]  # fmt: skip
    names = [name for name in values[0] if all(name in row for row in values)]
    scores = {name: tuple(row[name] for row in values) for name in names}
    return Evidence(label, cases_sha256(cases), scores, tuple(item.latency_ms for item in kept))


def _metrics(kept: Sequence[Kept], evidence: Evidence) -> dict[str, float]:
    count = len(kept)
    return {name: sum(values) / count for name, values in evidence.scores.items()} | {
        "latency_ms": statistics.median(item.latency_ms for item in kept),
        "prompt_tokens": sum(item.prompt_tokens for item in kept) / count,
        "completion_tokens": sum(item.completion_tokens for item in kept) / count,
        "total_tokens": float(sum(item.prompt_tokens + item.completion_tokens for item in kept)),
        "ended_rate": sum(item.finish_reason == "stop" for item in kept) / count,
    }


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


def _table(item: Item, cases: Sequence[Case], kept: Sequence[Kept], rows: Sequence[Row]) -> Iterable[dict[str, object]]:
    for number, (case, answer, row) in enumerate(zip(cases, kept, rows, strict=True)):
        yield {
            "prompt": item.label, "case": number, "name": case.name, "question": case.question,
            "variables": json.dumps(dict(case.variables), ensure_ascii=False), "reference": case.reference,
            "answer": answer.text, "finish_reason": answer.finish_reason, "latency_ms": round(answer.latency_ms, 1),
            "completion_tokens": answer.completion_tokens,
            "scores": json.dumps({found.name: round(found.score, 4) for found in row.findings}),
            "failed": "; ".join(f"{found.name}: {found.why}" for found in row.findings if not found.passed),
        }  # fmt: skip


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
            dataset = evaluations.register_dataset(place, _dataset_name(config, found), _records(found))
        result = EvaluationReport(
            run_id, tuple(item.evaluated for item in ranked), decided, None, len(found.cases),
            sum(item.assessed.rows for item in done), clock.reused, _judge_said(config, done), dataset,
            found.left_out, clock.compute_s, clock.mlflow_s,
        )  # fmt: skip
        _log_comparison(config, result, found, [row for item in ranked for row in item.table])
    if not config.promote:
        return result
    decision = _promote(config, ranked[0] if decided is None else _winner(done, decided), done, run_id)
    return EvaluationReport(**{field.name: getattr(result, field.name) for field in fields(result)}
                            | {"decision": decision})  # fmt: skip


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


def _promote(config: E2EConfig, best: Done, done: Sequence[Done], run_id: str) -> Decision:
    """Ask the gate about the best prompt; `verdict.json` has what it said."""
    prompt = best.evaluated.prompt
    if prompt.version is None:
        raise ConfigError(
            f"{prompt.name} is not in the prompt registry.",
            hint="Register it: --mode prompts create, then evaluate it with --prompt.",
        )
    stored = registry.require(prompt.name)
    evidence = {str(item.evaluated.prompt): item.evidence for item in done
                if item.evaluated.model_version == best.evaluated.model_version}  # fmt: skip
    gate = promotion.Gate(load_policy(config.gate, "prompt"), evidence.get, config.seed)
    decision = promotion.promote(stored, registry.version_of(stored, prompt.version), gate, force=config.force)
    evaluations.attach_decision(run_id, {"subject": str(prompt), **asdict(decision)})
    return decision
