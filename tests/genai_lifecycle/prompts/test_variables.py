"""The stored form of prompts: what is a variable, what is text, what is refused."""

from __future__ import annotations

import json
import re

import pytest
from mlflow.entities.model_registry import PromptVersion
from mlflow.prompt.constants import PROMPT_TEMPLATE_VARIABLE_PATTERN

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.prompts.variables import VARIABLE, mismatch, require_sound, variables_of
from genai_server.prompts import selection as serving
from genai_server.prompts.selection import PromptText, render
from served_model.text_generation.prompt import to_langchain_template

JSON_EXAMPLE = (
    'Answer as {"answer": {"text": "...", "tags": [{"a": {}}]}} or { x }.\n'
    "Question: {{question}}\nNot {question}, } or {:"
)
SOUND = [
    JSON_EXAMPLE,
    "{{question}}",
    "no variable",
    '{"a":{{{question}}}}',
    "{{ question }}{{question}}",
    "}} closes {{question}}",
    "\\n \\g<0> {{question}} <b>&amp;</b> 𝔘 🙂",
]
ODD_QUESTIONS = ["{{question}}", "{{other}} {question} {0!r} %s {", '<b>"it\'s"</b> &lt;', "\\1 \\g<0> $x\n\n", "🙂"]


def test_a_variable_is_what_mlflow_takes_for_one():
    for text in [*SOUND, "{{a.b}} {{a-b}} {{1x}} {{ spaced }} {{вопрос}} {{x y}} {{_}}"]:
        theirs = PromptVersion("p", 1, text).variables
        assert set(variables_of(text)) == set(theirs) == set(serving.variables_of(text))
    assert VARIABLE.pattern == PROMPT_TEMPLATE_VARIABLE_PATTERN.pattern == serving.VARIABLE.pattern


@pytest.mark.parametrize("template", SOUND)
@pytest.mark.parametrize("question", ODD_QUESTIONS)
def test_braces_survive_mlflow_langchain_and_the_server(template, question):
    """The same text, whoever fills it in; but for MLflow's own `format`, which reads the question as a pattern."""
    require_sound(template)
    expected = re.sub(r"\{\{ ?question ?\}\}", lambda _: question, template)
    values = {"question": question} if "question" in variables_of(template) else {}
    assert to_langchain_template(template).format(**values) == expected
    assert render(PromptText("p", 1, template, "live"), values) == expected


def test_the_json_example_is_json_still():
    shown = to_langchain_template(JSON_EXAMPLE).format(question="Q").split(" or ")[0].removeprefix("Answer as ")
    assert json.loads(shown) == {"answer": {"text": "...", "tags": [{"a": {}}]}}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("a {{question", "unclosed {{: '{{question'"),
        ("{{question}} and {{ then\nmore", "unclosed {{: '{{ then'"),
        ("{{a-b}}", "'{{a-b}}' is no variable"),
        ("{{вопрос}}", "'{{вопрос}}' is no variable"),
        ("{{1x}} {{question}}", "'{{1x}}' is no variable"),
        ('{{"a": 1}}', "is no variable"),
        ("{% if x %}{{question}}{% endif %}", "Jinja"),
        ("x" * 100_001, "100001 characters"),
    ],
)
def test_what_nobody_could_fill_in_is_refused(template, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as refusal:
        require_sound(template)
    assert refusal.value.hint
    assert len(template) > 100_000 or serving.template_error(template)  # the server refuses the same


def test_templates_that_want_other_variables_are_told_apart():
    assert mismatch("{{question}} again {{question}}", "{{ question }}") == ""
    assert mismatch("{{a}}{{question}}{{b}}", "{{question}}") == (
        "its variables are not those in production: unknown a, b"
    )
    assert mismatch("{{topic}}", "{{question}}").endswith("unknown topic; missing question")
