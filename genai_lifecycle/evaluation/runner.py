"""The one evaluation runner, under `experiment` and `evaluate`: answer, score, trace and store, then compare.

Which prompts on which model, and what becomes of the winner, is the stages' affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.evaluation import report
from genai_lifecycle.evaluation.answer_cache import AnswerCache
from genai_lifecycle.evaluation.answering import AnswerBatch, answered_batches
from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.evidence import Evidence, write_scores
from genai_lifecycle.evaluation.judges import Judges
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.scoring import evidence_of, metrics_of, row_of, table_of
from genai_lifecycle.evaluation.statistics import Verdict, mean_interval, verdict
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.store import evaluations, runs, traces
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.evaluations import EvaluationCounts, Row
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store

TEMPERATURE = 0.0  # greedy: the same answer every time, so two prompts differ by their text alone
OTHER_METRICS = ("token_f1", "passed")  # compared where not every case has the gate's own metric


@dataclass(frozen=True)
class Evaluation:
    """What is the same for every prompt: the cases, and how they are answered and judged."""

    cases: Sequence[Case]
    cases_file: str  # its name
    label: str  # a word to find the runs by
    max_new_tokens: int
    seed: int
    judges: Judges
    staging_dir: Path

    @property
    def dataset(self) -> str:
        """What MLflow calls the cases."""
        return f"{Path(self.cases_file).stem}-{cases_sha256(self.cases)[:8]}"

    @property
    def settings(self) -> dict[str, object]:
        """What an answer depends on beside the prompt and the model."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": TEMPERATURE, "seed": self.seed}

    @property
    def params(self) -> dict[str, object]:
        """As logged on every run."""
        return {
            "label": self.label,
            "cases": len(self.cases),
            "cases_file": self.cases_file,
            "cases_sha256": cases_sha256(self.cases),
        } | self.settings


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that answers: registered, or a base model before it is."""

    name: str  # as people call it
    weights_sha256: str
    registered_name: str = ""
    version: str = ""
    model_id: str | None = None  # of MLflow's LoggedModel

    @property
    def params(self) -> dict[str, object]:
        return {
            "model": self.name,
            "model_name": self.registered_name,
            "model_version": self.version,
            "weights_sha256": self.weights_sha256,
        }


@dataclass(frozen=True)
class Subject:
    """One prompt version on one model."""

    label: str
    prompt: PromptRef
    model: EvaluatedModel

    @property
    def params(self) -> dict[str, object]:
        return {
            "prompt": str(self.prompt) if self.prompt.version else self.prompt.name,
            "prompt_name": self.prompt.name,
            "prompt_version": self.prompt.version or "",
            "template": self.prompt.template,
        } | self.model.params


@dataclass(frozen=True)
class SubjectRun:
    """All that the run of one subject found out."""

    result: PromptResult
    experiment_id: str
    evidence: Evidence
    table: list[dict[str, object]]
    counts: EvaluationCounts


class EvaluationRunner:
    """Runs one subject after the other over the same cases, and keeps what they found and where the time went."""

    def __init__(self, evaluation: Evaluation, answered: Callable[[int], None], stored: Callable[[int], None]):
        """Args:
        answered, stored: called with the number of rows that were just answered, or stored.
        """
        self._evaluation, self._answered, self._stored = evaluation, answered, stored
        self._runs: list[SubjectRun] = []
        self._caches: list[AnswerCache] = []
        self._compute_s, self._mlflow_s, self._reused = 0.0, 0.0, 0

    def evidence_of(self, model_version: str) -> Mapping[str, Evidence]:
        """Of each prompt version on this model version."""
        found = [item for item in self._runs if item.result.model_version == model_version]
        return {str(item.result.prompt): item.evidence for item in found}

    def run(self, subject: Subject, place: Store, answer: AnswerBatch, *, nested: bool = False) -> None:
        """One run: answers, traces, scores, assessments.

        Raises:
            TrackingUnavailable: MLflow did not keep every row.
        """
        cases, cache = self._evaluation.cases, self._cache(subject)
        with runs.run(subject.label, runs.EVALUATE, nested=nested, tags=runs.linked(subject.prompt)) as run_id:
            compute_s, reused = self._compute_s, self._reused
            answers = self._answers(subject, cache, answer, run_id)
            rows = [row_of(case, item) for case, item in zip(cases, answers, strict=True)]
            counts = self._assess(place, run_id, rows)
            has_latencies = bool(subject.model.version)
            evidence = evidence_of(subject.label, cases, answers, rows, has_latencies=has_latencies)
            metrics = metrics_of(answers, evidence)
            if self._reused == reused:  # the time is that of all answers
                metrics |= _speed(answers, self._compute_s - compute_s)
            self._log(subject, metrics | _judged(counts), evidence)
        scores = {name: mean_interval(values, self._evaluation.seed) for name, values in evidence.scores.items()}
        version, experiment = subject.model.version, place.experiment_name
        result = PromptResult(subject.label, subject.prompt, version, run_id, experiment, metrics, scores)
        table = [*table_of(subject.label, cases, answers, rows)]
        self._runs.append(SubjectRun(result, place.experiment_id, evidence, table, counts))

    def compare(self, run_id: str, place: Store, metric: str, left_out: Sequence[str] = ()) -> EvaluationResult:
        """The verdict, the dataset and the report.

        Args:
            run_id: the run under way, in `place`, that gets them.
            metric: decides which prompt wins, where every case has it.
            left_out: what the case file had that is not supported, as sentences.
        """
        compared = self._compared_metric(metric)
        ranked = sorted(self._runs, key=lambda item: -item.result.metrics.get(compared or "", 0.0))
        with self._mlflow_time():
            places = dict.fromkeys([place.experiment_id, *(item.experiment_id for item in self._runs)])
            dataset = evaluations.register_dataset(list(places), self._evaluation.dataset, self._records())
        result = EvaluationResult(
            run_id=run_id,
            results=tuple(item.result for item in ranked),
            verdict=self._verdict(compared),
            cases=len(self._evaluation.cases),
            rows=sum(item.counts.rows for item in self._runs),
            reused=self._reused,
            judge=self._evaluation.judges.summary_with(sum(item.counts.judge_failures for item in self._runs)),
            dataset=dataset,
            left_out=tuple(left_out),
            compute_s=self._compute_s,
            mlflow_s=self._mlflow_s,
        )
        self._log_comparison(result, [row for item in ranked for row in item.table])
        return result

    def close(self) -> None:
        """Everything is stored: the answers need not be kept any longer."""
        for cache in self._caches:
            cache.close()

    # --- one subject ---

    def _cache(self, subject: Subject) -> AnswerCache:
        self._caches.append(AnswerCache(self._evaluation.staging_dir, subject.params | self._evaluation.settings))
        return self._caches[-1]

    def _answers(self, subject: Subject, cache: AnswerCache, answer: AnswerBatch, run_id: str) -> list[CaseAnswer]:
        """Every case's answer; each batch's traces are written as it is there."""
        found: list[CaseAnswer] = []
        for batch in answered_batches(self._evaluation.cases, cache, answer):
            self._compute_s += batch.compute_s
            self._reused += batch.reused
            with self._mlflow_time():
                numbered = enumerate(zip(batch.cases, batch.answers, strict=True), batch.start)
                traces.write([_trace(subject, number, *both) for number, both in numbered], run_id, subject.prompt)
            found += batch.answers
            self._answered(len(batch.answers))
        return found

    def _assess(self, place: Store, run_id: str, rows: Sequence[Row]) -> EvaluationCounts:
        scorers = self._evaluation.judges.scorers
        with self._mlflow_time():
            traces.flush(len(rows), lambda: traces.count([run_id], place.experiment_id))
            return evaluations.evaluate(place, run_id, rows, scorers, self._stored, self._evaluation.dataset)

    def _log(self, subject: Subject, metrics: Mapping[str, float], evidence: Evidence) -> None:
        count = len(self._evaluation.cases)
        first = self._evaluation.cases[0].question
        shown = first if count == 1 else f"{self._evaluation.cases_file}: {count} cases"
        runs.log_results(subject.params | self._evaluation.params | {"input": shown[:500]}, metrics)
        with scratch_folder(self._evaluation.staging_dir, "scores") as folder:
            write_scores(folder, evidence)
            runs.log_folder(folder)

    # --- the comparison ---

    def _compared_metric(self, wanted: str) -> str | None:
        for name in dict.fromkeys([wanted, *OTHER_METRICS]):
            if all(name in item.evidence.scores for item in self._runs):
                return name
        return None

    def _verdict(self, metric: str | None) -> Verdict | None:
        if metric is None or len(self._runs) < 2:
            return None
        scores = {item.result.label: item.evidence.scores[metric] for item in self._runs}
        return verdict(scores, metric=metric, seed=self._evaluation.seed, incumbent=self._incumbent())

    def _incumbent(self) -> str | None:
        """The label of the one that is in production, where one is compared."""
        names = {item.result.prompt.name for item in self._runs if item.result.prompt.version}
        live = {str(registry.in_production(name)) for name in names}
        labels = [item.result.label for item in self._runs if str(item.result.prompt) in live]
        return labels[0] if len(labels) == 1 else None

    def _records(self) -> list[dict[str, object]]:
        return [
            {"inputs": case.inputs, "expectations": {"expected_response": case.reference} if case.reference else {}}
            for case in self._evaluation.cases
        ]

    def _log_comparison(self, result: EvaluationResult, table: Sequence[Mapping[str, object]]) -> None:
        params = {"prompts": ", ".join(item.label for item in result.results), "dataset": result.dataset or ""}
        spent = {"rows": result.rows, "compute_s": result.compute_s, "mlflow_s": result.mlflow_s}
        best = {f"winner_{name}": value for name, value in result.winner.metrics.items()}
        runs.log_results(params | self._evaluation.params, spent | best)
        with scratch_folder(self._evaluation.staging_dir, "comparison") as folder:
            report.write(folder, result, table)
            runs.log_folder(folder)
        runs.describe(report.markdown(result, table))

    @contextmanager
    def _mlflow_time(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._mlflow_s += time.monotonic() - started


def _speed(answers: Sequence[CaseAnswer], compute_s: float) -> dict[str, float]:
    """Of batched generation."""
    tokens = sum(answer.completion_tokens for answer in answers)
    return {"seconds_per_answer": compute_s / len(answers), "tokens_per_second": tokens / compute_s}


def _judged(counts: EvaluationCounts) -> dict[str, float]:
    """How many answers the judges did not judge; MLflow logs their means itself."""
    return {"judge_failures": float(counts.judge_failures)} if counts.judge_failures else {}


def _trace(subject: Subject, number: int, case: Case, answer: CaseAnswer) -> traces.AnswerTrace:
    """render -> generate -> score, each with the times of its batch; MLflow keeps the scores as assessments."""
    usage = {
        "input_tokens": answer.prompt_tokens,
        "output_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
    prompt = {"prompt": answer.prompt}
    steps = (
        traces.Step("render", "PARSER", answer.start_ns, answer.rendered_ns, case.inputs, prompt),
        traces.Step(
            "generate", "LLM", answer.rendered_ns, answer.generated_ns, prompt,
            {"answer": answer.text, "finish_reason": answer.finish_reason}, {"mlflow.chat.tokenUsage": usage},
        ),
        traces.Step(
            "score", "EVALUATOR", answer.generated_ns, answer.end_ns, {"reference": case.reference},
            {"log_likelihood": answer.log_likelihood},
        ),
    )  # fmt: skip
    tags = {
        evaluations.CASE_TAG: str(number),
        "template": subject.prompt.template_name or subject.prompt.name,
        "prompt_version": str(subject.prompt.version or ""),
        "model_version": subject.model.version,
    }
    return traces.AnswerTrace(case.question, answer.text, steps, tags, case.inputs, subject.model.model_id)
