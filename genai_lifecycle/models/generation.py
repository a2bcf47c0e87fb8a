"""Answering cases through LangChain: `PromptTemplate | llm`, a whole batch at a time, with the times of each step.

The text generation itself is the served model's own (`served_model.text_generation`): what an experiment measures
is what is served later. Only this module of the orchestrator and engine_pipeline.py, where the llm is, import it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.models.engine_pipeline import TIMEOUT_S, EngineLLM, EnginePipeline
from served_model.text_generation.checkpoint import load_tokenizer, read_limits
from served_model.text_generation.choice import usable_cpus
from served_model.text_generation.openvino_engine import OpenVINOEngine
from served_model.text_generation.prompt import to_langchain_template
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.text_model import Answer, TextModel


@dataclass(frozen=True)
class Timed:
    """What one LangChain step produced, and when (nanoseconds since the epoch)."""

    value: Any
    start_ns: int
    end_ns: int


class _StepTimes(BaseCallbackHandler):
    """Keeps what LangChain's callbacks tell of each row: the rendered prompt and the answer, with their times."""

    def __init__(self) -> None:
        self.started: dict[UUID, int] = {}
        self.rendered: dict[UUID, Timed] = {}  # keyed by the run of the row's whole chain
        self.generated: dict[UUID, Timed] = {}
        self._parents: dict[UUID, UUID] = {}
        self.rows: list[UUID] = []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **_: Any) -> None:
        self.started[run_id] = time.time_ns()
        if parent_run_id is None:
            self.rows.append(run_id)
        else:
            self._parents[run_id] = parent_run_id

    def on_chain_end(self, outputs, *, run_id, parent_run_id=None, **_: Any) -> None:
        if parent_run_id is not None:
            self.rendered[parent_run_id] = Timed(outputs.to_string(), self.started[run_id], time.time_ns())

    def on_llm_start(self, serialized, prompts, *, run_id, parent_run_id=None, **_: Any) -> None:
        self.started[run_id] = time.time_ns()

    def on_llm_end(self, response: LLMResult, *, run_id, parent_run_id=None, **_: Any) -> None:
        answer = Answer(**response.generations[0][0].generation_info)
        self.generated[parent_run_id] = Timed(answer, self.started[run_id], time.time_ns())


def load_text_model(folder: str, turn_format: str) -> TextModel:
    """Weights and tokenizer from a folder in HuggingFace format with safetensors weights, on the torch engine."""
    return TextModel.load(folder, turn_format)


def load_converted(folder: Path, ir: Path, turn_format: str, precision: str) -> TextModel:
    """The same checkpoint on the OpenVINO engine, with the converted weights in `ir`."""
    engine = OpenVINOEngine(ir, read_limits(folder), usable_cpus(), precision)
    return TextModel(load_tokenizer(folder), engine, turn_format)


def answer_cases(text_model: TextModel, template: str, cases: Sequence[Case], max_new_tokens: int) -> list[CaseAnswer]:
    """Greedy answers of one template to one batch of cases, with the log-likelihood of each reference.

    Args:
        template: stored form, with the variables that every case has.
        cases: answered together.
    """
    pipeline = EnginePipeline(text_model, max_new_tokens=max_new_tokens, return_full_text=False)
    chain = to_langchain_template(template) | EngineLLM(pipeline=pipeline)
    times = _StepTimes()
    chain.batch([case.inputs for case in cases], config={"callbacks": [times]})
    rendered = [times.rendered[row] for row in times.rows]
    generated = [times.generated[row] for row in times.rows]
    likelihoods = text_log_likelihoods(
        text_model, [step.value for step in rendered], [case.reference for case in cases]
    )
    end_ns = time.time_ns()
    return [_case_answer(*parts, end_ns) for parts in zip(cases, rendered, generated, likelihoods, strict=True)]


def _case_answer(case: Case, rendered: Timed, generated: Timed, likelihood: float | None, end_ns: int) -> CaseAnswer:
    answer: Answer = generated.value
    return CaseAnswer(
        text=answer.answer,
        reference=case.reference,
        finish_reason=answer.finish_reason,
        completion_tokens=answer.completion_tokens,
        latency_ms=answer.total_s * 1000,
        log_likelihood=likelihood,
        prompt_tokens=answer.prompt_tokens,
        prompt=rendered.value,
        start_ns=rendered.start_ns,
        rendered_ns=rendered.end_ns,
        generated_ns=generated.end_ns,
        end_ns=end_ns,
    )


def reference_log_likelihoods(text_model: TextModel, template: str, cases: Sequence[Case]) -> list[float]:
    """Mean log-probability per token (nats, at most 0) of each case's reference, which none may lack."""
    render = to_langchain_template(template)
    texts = [render.format(**case.inputs) for case in cases]
    found = text_log_likelihoods(text_model, texts, [case.reference for case in cases])
    return [value for value in found if value is not None]


def greedy_answers(text_model: TextModel, template: str, questions: Sequence[str], max_new_tokens: int) -> list[Answer]:
    """Greedy answers, each question in a batch of its own: what a single caller gets."""
    prompts = _prompts(text_model, template, questions, max_new_tokens)
    return [text_model.complete([prompt], _greedy(max_new_tokens))[0] for prompt in prompts]


def answers_together(
    text_model: TextModel, template: str, questions: Sequence[str], max_new_tokens: int
) -> list[Answer]:
    """Greedy answers, all questions handed in at once: what they get in a crowd."""
    prompts = _prompts(text_model, template, questions, max_new_tokens)
    return text_model.complete(prompts, _greedy(max_new_tokens))


def variables_of(template: str) -> list[str]:
    """The variables that a stored template needs."""
    return list(to_langchain_template(template).input_variables)


def text_log_likelihoods(text_model: TextModel, texts: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """Mean log-probability per token (nats, at most 0) of each reference after its prompt; None without one."""
    known = [i for i, reference in enumerate(references) if reference]
    answers = [text_model.encode_answer(references[i], texts[i]) for i in known]
    encoded = [text_model.encode(texts[i], (), len(ids)) for i, ids in zip(known, answers, strict=True)]
    values = text_model.log_likelihoods(encoded, answers) if known else []
    found = dict(zip(known, values, strict=True))
    return [found.get(i) for i in range(len(texts))]


def _prompts(text_model: TextModel, template: str, questions: Sequence[str], max_new_tokens: int) -> list:
    render = to_langchain_template(template)
    return [text_model.encode(render.format(question=item), (), max_new_tokens) for item in questions]


def _greedy(max_new_tokens: int) -> Sampling:
    return Sampling(max_new_tokens=max_new_tokens, timeout_s=TIMEOUT_S)
