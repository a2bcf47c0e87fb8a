"""Stage `experiment`: every prompt template over the same cases, traced, scored and compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation import judges, report
from genai_lifecycle.evaluation.answering import BATCH
from genai_lifecycle.evaluation.case_files import load_cases
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.gate import load_policy
from genai_lifecycle.evaluation.results import ExperimentResult, TemplateScore
from genai_lifecycle.evaluation.scorers import AGAINST_REFERENCE, repetition, succeeded
from genai_lifecycle.evaluation.statistics import mean_interval, verdict
from genai_lifecycle.models.generation import (
    CaseAnswer,
    TextModel,
    answer_cases,
    compute_seconds,
    load_text_model,
)
from genai_lifecycle.models.source import ModelSource
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.templates import TEMPLATES
from genai_lifecycle.runtime import progress
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.store import evaluations, runs, traces
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store

log = logging.getLogger(__name__)

METRIC = "token_f1"  # what decides which prompt wins


@dataclass(frozen=True)
class Scored:
    """One case's answer with its scores; a row of the results table."""

    answer: CaseAnswer
    against_reference: Mapping[str, float]  # each 0..1
    repetition: float  # 0..1
    success: bool
    start_ns: int
    end_ns: int

    @property
    def token_f1(self) -> float:
        return self.against_reference[METRIC]


@dataclass(frozen=True)
class TemplateRun:
    """All that one nested run found out."""

    score: TemplateScore
    rows: Sequence[Scored]
    compute_s: float


def run_experiment(config: E2EConfig, source: ModelSource, store: Store) -> ExperimentResult:
    """Compare the prompt templates on `source`; the winner goes into production where the gate lets it.

    What is in production already is compared too. Leaves a parent run with a nested run for each prompt, a trace
    for each answer, plots and a report. The alias `production` moves last, when everything else is stored.

    Raises:
        CasesInvalid: the case file cannot be used.
        ConfigError: the gate file has something wrong in it.
        TrackingUnavailable: the store stopped answering, or did not keep every trace.
    """
    cases, policy = load_cases(config.cases), load_policy(config.gate, "prompt")
    live = registry.in_production(list(TEMPLATES))
    prompts = _compared(config, live)
    text_model = load_text_model(source.path, source.turn_format)
    with runs.run("experiment", "experiment") as run_id:
        runs.log_results(_params(config, source, cases), {})
        identity = {"weights_sha256": source.weights_sha256, "cases_sha256": cases_sha256(cases)}
        with progress.steps("Answering", len(prompts) * len(cases)) as advance:
            done = [_run_template(config, text_model, prompt, cases, identity, advance) for prompt in prompts]
        result = _conclude(config, store, run_id, done, live, cases)
    evidence = {str(item.score.prompt): _evidence(item, identity["cases_sha256"]) for item in done}
    gate = promotion.Gate(policy, evidence.get, config.seed)
    stays, decision = promotion.put_in_production(result.winner, live, gate, override=config.override_gate)
    if decision is not None:
        evaluations.attach_decision(run_id, {"subject": str(result.winner), **asdict(decision)})
    return replace(result, decision=decision, in_production=stays)


def _compared(config: E2EConfig, live: Sequence[PromptRef]) -> list[PromptRef]:
    """The templates; and what is in production, where this checkout has another text for it by now."""
    prompts = registry.register_all(TEMPLATES, f"Template of experiment {config.experiment_name}")
    return [*prompts, *(prompt for prompt in live if prompt not in prompts and "{{question}}" in prompt.template)]


def _params(config: E2EConfig, source: ModelSource, cases: Sequence[Case]) -> dict[str, object]:
    return {
        **source.as_params(),
        "cases": len(cases),
        "cases_file": config.cases.name,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "templates": ", ".join(TEMPLATES),
    }


def _run_template(
    config: E2EConfig,
    text_model: TextModel,
    prompt: PromptRef,
    cases: Sequence[Case],
    identity: Mapping[str, str],
    advance: Callable[[int], None],
) -> TemplateRun:
    """One nested run: answers in batches, scores, traces, metrics and the prompt itself."""
    with runs.run(prompt.name, "template", nested=True, tags=runs.linked(prompt)) as run_id:
        rows: list[Scored] = []
        compute_s = 0.0
        for start in range(0, len(cases), BATCH):
            answers = answer_cases(text_model, prompt.template, cases[start : start + BATCH], config.max_new_tokens)
            scored = [_score(answer) for answer in answers]
            traces.write([_trace(row, prompt) for row in scored], run_id, prompt)
            rows += scored
            compute_s += compute_seconds(answers)
            advance(len(answers))
        metrics = _metrics(rows, compute_s)
        runs.log_results({"prompt": str(prompt), "template": prompt.template, **identity}, metrics)
        interval = mean_interval([row.token_f1 for row in rows], config.seed)
        return TemplateRun(TemplateScore(prompt, run_id, metrics, interval), rows, compute_s)


def _score(answer: CaseAnswer) -> Scored:
    start_ns = answer.log_likelihood.start_ns
    text = answer.generated.value.answer
    return Scored(
        answer=answer,
        against_reference={name: score(text, answer.case.reference) for name, score in AGAINST_REFERENCE.items()},
        repetition=repetition(text),
        success=succeeded(text, answer.generated.value.finish_reason),
        start_ns=start_ns,
        end_ns=answer.log_likelihood.end_ns,
    )


def _trace(row: Scored, prompt: PromptRef) -> traces.AnswerTrace:
    """render -> generate -> score. Answers are made in batches, so the times of a step are those of its batch."""
    item = row.answer
    made = item.generated.value
    usage = {
        "input_tokens": made.prompt_tokens,
        "output_tokens": made.completion_tokens,
        "total_tokens": made.prompt_tokens + made.completion_tokens,
    }
    question = {"question": item.case.question}
    text = item.rendered.value
    render = traces.Step("render", "PARSER", item.rendered.start_ns, item.rendered.end_ns, question, {"prompt": text})
    generate = traces.Step(
        "generate", "LLM", item.generated.start_ns, item.generated.end_ns, {"prompt": text},
        {"answer": made.answer, "finish_reason": made.finish_reason},
        {"mlflow.chat.tokenUsage": usage, "batch_size": item.batch_size},
    )  # fmt: skip
    score = traces.Step(
        "score", "EVALUATOR", row.start_ns, row.end_ns, {"reference": item.case.reference},
        {"token_f1": row.token_f1, "log_likelihood": item.log_likelihood.value, "success": row.success},
        {"batch_size": item.batch_size},
    )  # fmt: skip
    tags = {"template": prompt.name, "prompt_version": str(prompt.version or "")}
    return traces.AnswerTrace(item.case.question, made.answer, (render, generate, score), tags)


def _metrics(rows: Sequence[Scored], compute_s: float) -> dict[str, float]:
    """Means over the cases; seconds and tokens per second are those of batched generation."""
    made = [row.answer.generated.value for row in rows]
    tokens = sum(item.completion_tokens for item in made)
    count = len(rows)
    return {
        "success_rate": sum(row.success for row in rows) / count,
        "ended_rate": sum(item.finish_reason == "stop" for item in made) / count,
        "answer_words": sum(len(item.answer.split()) for item in made) / count,
        "answer_tokens": tokens / count,
        "seconds_per_answer": compute_s / count,
        "tokens_per_second": tokens / compute_s,
        "token_f1": sum(row.token_f1 for row in rows) / count,
        "log_likelihood": sum(row.answer.log_likelihood.value for row in rows) / count,
        "repetition": sum(row.repetition for row in rows) / count,
    }


def _conclude(
    config: E2EConfig,
    store: Store,
    run_id: str,
    done: Sequence[TemplateRun],
    live: Sequence[PromptRef],
    cases: Sequence[Case],
) -> ExperimentResult:
    """The verdict, the judge, the artifacts; then the check that every trace was stored."""
    scores = {str(item.score.prompt): [row.token_f1 for row in item.rows] for item in done}
    incumbent = str(live[0]) if len(live) == 1 else None
    decided = verdict(scores, metric=METRIC, seed=config.seed, incumbent=incumbent)
    best = next(item for item in done if str(item.score.prompt) == decided.winner)
    judged = judges.judge(
        config.judge_model, [(row.answer.case, row.answer.generated.value.answer) for row in best.rows]
    )
    result = ExperimentResult(
        run_id=run_id,
        scores=tuple(sorted((item.score for item in done), key=lambda score: -score.metrics[METRIC])),
        verdict=decided,
        winner=best.score.prompt,
        cases=len(cases),
        traces=len(cases) * len(done),
        judge=judged.summary,
        compute_s=sum(item.compute_s for item in done),
    )
    runs.log_results({}, {f"winner_{name}": value for name, value in best.score.metrics.items()} | judged.metrics)
    _log_artifacts(config, result, done)
    _require_all_traces(store, result, done)
    runs.set_tag(run_id, runs.WINNER_TAG, str(result.winner))
    return result


def _evidence(item: TemplateRun, cases_sha256: str) -> Evidence:
    """For the gate. Without latencies: the answers came in batches, from another engine than the one that serves."""
    rows = item.rows
    scores = {name: tuple(row.against_reference[name] for row in rows) for name in AGAINST_REFERENCE}
    scores["log_likelihood"] = tuple(row.answer.log_likelihood.value for row in rows)
    return Evidence(str(item.score.prompt), cases_sha256, scores)


def _log_artifacts(config: E2EConfig, result: ExperimentResult, done: Sequence[TemplateRun]) -> None:
    rows = [_table_row(item, row) for item in done for row in item.rows]
    with scratch_folder(config.staging_dir, "experiment") as folder:
        report.write(folder, result, rows)
        runs.log_folder(folder)
    runs.describe(report.markdown(result, rows))


def _table_row(item: TemplateRun, row: Scored) -> dict[str, object]:
    made = row.answer.generated.value
    return {
        "prompt": str(item.score.prompt),
        "question": row.answer.case.question,
        "reference": row.answer.case.reference,
        "answer": made.answer,
        "finish_reason": made.finish_reason,
        "completion_tokens": made.completion_tokens,
        "success": row.success,
        "token_f1": round(row.token_f1, 4),
        "log_likelihood": round(row.answer.log_likelihood.value, 4),
        "repetition": round(row.repetition, 4),
    }


def _require_all_traces(store: Store, result: ExperimentResult, done: Sequence[TemplateRun]) -> None:
    """MLflow's background writer drops traces with a warning only; an experiment that lost some says so."""
    from genai_lifecycle.errors import TrackingUnavailable

    traces.flush(result.traces)
    stored = traces.count([item.score.run_id for item in done], store.experiment_id)
    if stored != result.traces:
        raise TrackingUnavailable(
            f"MLflow stored {stored} of {result.traces} traces.",
            hint="Run the same command again; --verbose shows what MLflow said.",
        )
