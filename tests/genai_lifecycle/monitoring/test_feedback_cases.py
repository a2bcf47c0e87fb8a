"""Feedback as cases that the evaluation reads."""

from __future__ import annotations

import pytest

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.evaluation.case_files import read_case_file
from genai_lifecycle.monitoring.feedback_cases import FeedbackCases, cases_of, require_free, write_cases
from genai_lifecycle.store.served import GeneratedAnswer, ServedRequest, StoredFeedback


def request(question, *feedback, has_history=False) -> ServedRequest:
    given = tuple(StoredFeedback(name, value, None, "ann") for name, value in feedback)
    return ServedRequest("tr-1", "r-1", 0, 1.0, "m", "7", "qa/1", None, GeneratedAnswer("a", "stop", 1, 1), question,
                         has_history, given)  # fmt: skip


def test_questions_once_and_the_newest_expected_answer():
    found = cases_of([
        request("What is MLflow?", ("score", False)), request("What is MLflow?", ("expected_answer", "A platform.")),
        request("What is MLflow?", ("expected_answer", "An older word.")), request("Who?", ("score", True)),
    ])  # fmt: skip
    assert found.cases == ({"question": "Who?"}, {"question": "What is MLflow?", "reference": "A platform."})


def test_what_gives_no_case_is_counted():
    found = cases_of([request(None, ("score", 1)), request("And then?", ("score", 1), has_history=True), request(" "),
                      request("half \ud83d")])  # fmt: skip
    assert found.cases == () and sorted(found.left_out.values()) == [1, 1, 2]


def test_the_evaluation_reads_the_file(tmp_path):
    text = 'What is a <b>{{question}}</b>?\n"{x}" 🙂'
    write_cases(tmp_path / "below" / "cases.jsonl", cases_of([request(text, ("reference", "A case."))]))
    (case,) = read_case_file(tmp_path / "below" / "cases.jsonl").cases
    assert (case.question, case.reference) == (text, "A case.")
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["cases.jsonl"]


def test_a_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "cases.jsonl"
    require_free(path, overwrite=False)
    write_cases(path, FeedbackCases(({"question": "a"},), {}))
    with pytest.raises(ConfigError, match="is there already"):
        require_free(path, overwrite=False)
    require_free(path, overwrite=True)
