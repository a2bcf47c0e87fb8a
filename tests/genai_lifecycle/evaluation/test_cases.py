"""Case files: good ones, and each way of being bad with the line's number."""

from __future__ import annotations

import pytest

from genai_lifecycle.errors import CasesInvalid
from genai_lifecycle.evaluation.case_files import load_cases
from genai_lifecycle.evaluation.cases import Case, cases_sha256, spread

GOOD = '{"question": "What is 1?", "reference": "One."}'


def load(tmp_path, content):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_cases(path)


def test_cases_are_read_in_order_and_blank_lines_skipped(tmp_path):
    text = f'{GOOD}\n\n  \n{{"question": "Что?", "reference": "Да — \\u2028 🙂", "else": 1}}\n'
    assert load(tmp_path, text) == [Case("What is 1?", "One."), Case("Что?", "Да — \u2028 🙂")]


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_files_as_other_systems_write_them(tmp_path, start, ending):
    assert len(load(tmp_path, start + GOOD + ending + GOOD)) == 2


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    separators = "a\u2028b\u0085c"
    assert load(tmp_path, f'{{"question": "{separators}", "reference": "r"}}') == [Case(separators, "r")]


BAD = {
    "not JSON": "{question: 1}",
    "no object": '["a", "b"]',
    "no reference": '{"question": "a"}',
    "null": '{"question": null, "reference": "b"}',
    "a number": '{"question": "a", "reference": 3}',
    "blank text": '{"question": "  ", "reference": "b"}',
    "cut off": GOOD[:-5],
    "half a character": '{"question": "\\ud83d", "reference": "b"}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_line_is_told_with_its_number(tmp_path, name):
    with pytest.raises(CasesInvalid, match=r"cases.jsonl, line 3: .*\.") as error:
        load(tmp_path, f"{GOOD}\n\n{BAD[name]}\n{GOOD}\n")
    assert '"question"' in error.value.hint


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(tmp_path, content):
    with pytest.raises(CasesInvalid, match="is empty"):
        load(tmp_path, content)


def test_files_that_are_missing_no_file_or_no_text(tmp_path):
    with pytest.raises(CasesInvalid, match="No such file"):
        load_cases(tmp_path / "none.jsonl")
    with pytest.raises(CasesInvalid, match="Is a directory"):
        load_cases(tmp_path)
    with pytest.raises(CasesInvalid, match="not UTF-8 text"):
        load(tmp_path, GOOD.encode() + b"\xff")


def test_the_hash_knows_texts_and_order():
    one, two = Case("a", "b"), Case("c", "d")
    assert cases_sha256([one, two]) == cases_sha256([Case("a", "b"), Case("c", "d")])
    assert len({cases_sha256(cases) for cases in ([one, two], [two, one], [one], [Case("a", "bb"), two])}) == 4


def test_spread_takes_cases_at_even_distances():
    cases = [Case(str(i), "r") for i in range(10)]
    assert [case.question for case in spread(cases, 5)] == ["0", "2", "4", "6", "8"]
    assert [case.question for case in spread(cases, 3)] == ["0", "3", "6"]
    assert spread(cases, 10) == spread(cases, 99) == cases
