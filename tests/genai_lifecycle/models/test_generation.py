"""Cases through LangChain: order, rendered prompts, times of each step, likelihoods of the references."""

from __future__ import annotations

import time

import pytest

from genai_lifecycle.evaluation.answering import BATCH
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.models.generation import answer_cases, greedy_answers, load_text_model

TEMPLATE = "Question: {{question}}\nAnswer:"


@pytest.fixture(scope="module")
def text_model(tiny_gpt2):
    return load_text_model(str(tiny_gpt2), "plain")


def cases_of(count: int) -> list[Case]:
    return [Case(f"What is {'very ' * (i % 5)}number {i}?", f"It is {i}.") for i in range(count)]


def test_each_case_gets_its_own_answer_in_order(text_model):
    cases = cases_of(BATCH)
    answers = answer_cases(text_model, TEMPLATE, cases, 6)
    assert [item.reference for item in answers] == [case.reference for case in cases]
    assert [item.prompt for item in answers] == [f"Question: {c.question}\nAnswer:" for c in cases]
    alone = greedy_answers(text_model, TEMPLATE, [case.question for case in cases], 6)
    assert [item.text for item in answers] == [answer.answer for answer in alone]
    assert [item.completion_tokens for item in answers] == [answer.completion_tokens for answer in alone]


def test_questions_reach_the_prompt_as_written(text_model):
    odd = [Case("{{question}} {x} <b>", "r"), Case("{{question}} {x} <b>", "r"), Case("a\n%s", "r")]
    answers = answer_cases(text_model, TEMPLATE, odd, 2)
    assert [item.prompt for item in answers] == [f"Question: {case.question}\nAnswer:" for case in odd]


def test_the_likelihood_is_that_of_the_reference_after_the_prompt(text_model):
    cases = cases_of(3)
    answers = answer_cases(text_model, TEMPLATE, cases, 2)
    for item in answers:
        prompt = text_model.encode(item.prompt)
        reference = text_model.tokenizer.encode(f" {item.reference}").ids
        (expected,) = text_model.log_likelihoods([prompt], [reference])
        assert item.log_likelihood == pytest.approx(expected, abs=1e-5)


def test_a_long_neighbour_does_not_change_a_likelihood(text_model):
    long_question = Case("word " * 60, "Short.")  # fits into the window with its own reference
    neighbour = Case("Short?", "word " * 150)
    alone = answer_cases(text_model, TEMPLATE, [long_question], 2)[0]
    together = answer_cases(text_model, TEMPLATE, [long_question, neighbour], 2)[0]
    assert together.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-5)


def test_the_times_of_the_steps_follow_each_other(text_model):
    before = time.time_ns()
    answers = answer_cases(text_model, TEMPLATE, cases_of(4), 4)
    after = time.time_ns()
    for item in answers:
        times = [before, item.start_ns, item.rendered_ns, item.generated_ns, item.end_ns, after]
        assert times == sorted(times)
        assert 0 < item.latency_ms <= (after - before) / 1e6


def test_variables_beside_the_question_and_a_case_without_a_reference(text_model):
    (answer,) = answer_cases(text_model, "{{topic}}: {{question}}", [Case("Why?", "", {"topic": "AI", "x": "y"})], 2)
    assert (answer.prompt, answer.log_likelihood) == ("AI: Why?", None)


def test_an_experiment_is_not_cut_by_the_deadline_of_a_single_caller(text_model, monkeypatch):
    asked = []
    complete = text_model.complete
    monkeypatch.setattr(text_model, "complete", lambda p, sampling: asked.append(sampling) or complete(p, sampling))
    answer_cases(text_model, TEMPLATE, cases_of(1), 2)
    greedy_answers(text_model, TEMPLATE, ["a"], 2)
    assert [sampling.timeout_s for sampling in asked] == [3600, 3600]
    assert {sampling.temperature for sampling in asked} == {0}
