"""Case files in every form: promptfoo's own shape, CSV, JSON lines; each mistake left_out with its line."""

from __future__ import annotations

import json

import pytest

from genai_lifecycle.errors import CasesInvalid
from genai_lifecycle.evaluation.case_files import load_cases, read_case_file
from genai_lifecycle.evaluation.checks import Assertion


def read(tmp_path, name: str, content: str):
    (tmp_path / name).write_text(content, "utf-8")
    return read_case_file(tmp_path / name)


# A file as promptfoo's own documentation shows them, with things that only promptfoo can do.
PROMPTFOO = """\
description: An existing file
prompts:
  - 'Translate to {{language}}: {{input}}'
  - file://prompts.txt
  - raw: 'In {{language}}, "{{input}}" is'
    label: short one
providers: [openai:gpt-4o-mini]
defaultTest:
  vars: {language: French}
  assert:
    - type: latency
      threshold: 2000
tests:
  - description: a greeting
    vars:
      input: Hello {{language}} world
    assert:
      - type: contains
        value: '{{language}}'
      - type: not-icontains-any
        value: [sorry, unable]
        weight: 2
      - type: llm-rubric
        value: is polite
  - vars:
      language: [German, Spanish]
      input: Goodbye
    threshold: 0.5
    assert:
      - type: javascript
        value: output.length > 3
      - type: regex
        value: '^\\w+'
        metric: one word
"""


def test_a_file_of_promptfoo_is_read_and_what_is_left_out_is_named(tmp_path):
    file = read(tmp_path, "promptfooconfig.yaml", PROMPTFOO)
    assert [case.inputs for case in file.cases] == [
        {"language": "French", "input": "Hello {{language}} world"},
        {"language": "German", "input": "Goodbye"},
        {"language": "Spanish", "input": "Goodbye"},
    ]
    first, second, _ = file.cases
    assert first.name == "a greeting"
    assert first.checks == (
        Assertion("latency", threshold=2000),
        Assertion("contains", "French"),
        Assertion("icontains-any", ["sorry", "unable"], weight=2, negated=True),
    )
    assert (second.threshold, second.checks[1].name) == (0.5, "one word")
    assert file.prompts == {
        "prompt-1": "Translate to {{language}}: {{input}}",
        "short-one": 'In {{language}}, "{{input}}" is',
    }
    left_out = "\n".join(file.left_out)
    assert "the check 'llm-rubric' is left out: it needs a model judge" in left_out
    assert "the check 'javascript' is left out: it runs code" in left_out
    assert "'providers' is left out" in left_out and "'file://prompts.txt'" in left_out
    assert file.lines == (14, 25, 25)


def test_the_variables_of_a_user_are_never_filled_in(tmp_path):
    odd = "{{question}} {x} {{b}} <b>&amp;</b>"
    file = read(tmp_path, "c.jsonl", json.dumps({"question": odd, "variables": {"b": odd}, "reference": "r"}))
    assert file.cases[0].inputs == {"question": odd, "b": odd}


CSV = """question,reference,topic,__expected1,__expected2,__description
"What is a ""cat""?",An animal.,pets,contains: cat,not-regex: ^No,quoted
"Two
lines",,,latency: 900,"contains-any: a, b",
Plain,,x,Just this,rouge-n(0.6): a b,
"""


def test_csv_with_promptfoos_columns(tmp_path):
    file = read(tmp_path, "c.csv", CSV)
    assert [case.question for case in file.cases] == ['What is a "cat"?', "Two\nlines", "Plain"]
    assert [case.reference for case in file.cases] == ["An animal.", "", ""]
    assert file.cases[0].variables == {"topic": "pets"}
    assert [case.checks for case in file.cases] == [
        (Assertion("contains", "cat"), Assertion("regex", "^No", negated=True)),
        (Assertion("latency", threshold=900.0), Assertion("contains-any", "a, b")),
        (Assertion("equals", "Just this"), Assertion("rouge-n", "a b", 0.6)),
    ]
    assert file.lines == (2, 3, 5)


def test_json_escapes_of_one_character_outside_the_basic_plane(tmp_path):
    file = read(tmp_path, "c.json", json.dumps({"tests": [{"vars": {"question": "A 🙂?", "reference": "\\\\ud83d"}}]}))
    assert (file.cases[0].question, file.cases[0].reference) == ("A 🙂?", "\\\\ud83d")


def test_a_list_of_tests_a_json_file_and_tests_in_another_file(tmp_path):
    (tmp_path / "more.csv").write_text("question\nFrom the CSV?\n", "utf-8")
    (tmp_path / "list.json").write_text('[{"vars": {"question": "From JSON?"}}, "file://more.csv"]', "utf-8")
    file = read(tmp_path, "c.yml", "tests: file://list.json\n")
    assert [case.question for case in file.cases] == ["From JSON?", "From the CSV?"]


BAD = {
    ("c.yaml", 3, "'vars' is"): "tests:\n  - vars: {question: a}\n  - vars: [1]\n",
    ("c.yaml", 4, "unknown; did you mean contains"): (
        "tests:\n  - vars: {question: a}\n\n  - vars: {question: a}\n    assert: [{type: contians, value: a}]\n"
    ),
    ("c.yaml", 2, "the check 'contains' has no 'value'"): (
        "tests:\n  - {vars: {question: a}, assert: [{type: contains}]}\n"
    ),
    ("c.yaml", 2, "the value '[' of the check 'regex' is wrong"): (
        "tests:\n  - {vars: {question: a}, assert: [{type: regex, value: '['}]}\n"
    ),
    ("c.yaml", 2, "needs a 'value', or a reference"): "tests:\n  - {vars: {question: a}, assert: [{type: rouge-l}]}\n",
    ("c.yaml", 2, "'threshold' is 'much'"): (
        "tests:\n  - {vars: {question: a}, assert: [{type: latency, threshold: much}]}\n"
    ),
    ("c.yaml", 2, "'question' is missing"): "tests:\n  - {vars: {}}\n",
    ("c.yaml", 2, "in a file of its own"): "tests:\n  - {vars: {topic: 'file://x.txt'}}\n",
    ("c.yaml", 3, "not valid YAML"): "tests:\n  - vars: {question: a}\n \t- b\n",
    ("c.yaml", 1, "there is no list 'tests'"): "prompts: [a]\n",
    ("c.yaml", 1, "neither a list of tests"): "hello\n",
    ("c.csv", 3, "more fields"): "question\na\nb,c\n",
    ("c.csv", 2, "fewer fields"): "question,reference\na\n",
    ("c.csv", 2, "'question' is missing"): "question,reference\n,\n",
    ("c.yaml", 1, "'defaultTest' is 'x', not an object"): "defaultTest: x\ntests: [{vars: {question: a}}]\n",
    ("c.yaml", 3, "'assert' is {'type': 'latency'}, not a list"): (
        "tests:\n  - vars: {question: a}\n  - {vars: {question: a}, assert: {type: latency}}\n"
    ),
    ("c.jsonl", 2, "'checks' is 1, not a list"): '{"question": "a"}\n{"question": "a", "checks": 1}\n',
}


@pytest.mark.parametrize(("name", "line", "what"), BAD)
def test_a_mistake_is_left_out_with_its_line(tmp_path, name, line, what):
    with pytest.raises(CasesInvalid) as error:
        read(tmp_path, name, BAD[(name, line, what)])
    assert f"{name}, line {line}: " in error.value.args[0] and what in error.value.args[0]


def test_the_experiment_needs_a_reference_in_every_case(tmp_path):
    read(tmp_path, "c.yaml", "tests:\n  - vars: {question: a, reference: b}\n  - vars: {question: c}\n")
    with pytest.raises(CasesInvalid, match="line 3: 'reference' is missing"):
        load_cases(tmp_path / "c.yaml")
