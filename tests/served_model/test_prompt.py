"""Stored prompts: `{{name}}` is a variable, every other brace is text."""

from __future__ import annotations

import pytest
from tiny_model import TEMPLATE

from served_model.text_generation.prompt import to_langchain_template

ODD_QUESTIONS = [
    "{question}",
    "{{question}}",
    "{{ other }} {0!r} %s {",
    "<b>&amp;</b> \"quoted\" 'it'",
    "a\n\nb\\n$x",
    "\x00 𝔘 🙂",
]


@pytest.mark.parametrize("question", ODD_QUESTIONS)
def test_a_question_reaches_the_prompt_as_written(question):
    assert to_langchain_template(TEMPLATE).format(question=question) == f"Question: {question}\nAnswer:"


def test_other_braces_of_a_template_are_text():
    template = 'Answer as {"text": "..."} or {x} to {{ question }}; {{a-b}} stays. {{question}}'
    assert (
        to_langchain_template(template).format(question="Q")
        == 'Answer as {"text": "..."} or {x} to Q; {{a-b}} stays. Q'
    )


def test_a_template_without_a_variable_is_a_text():
    assert to_langchain_template("Hello {you}.").format() == "Hello {you}."
