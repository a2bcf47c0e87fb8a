"""The report's files: Markdown that names the winner, a table that can be read back, plots that are images."""

from __future__ import annotations

import csv
import json
import struct

import pytest

from genai_lifecycle.evaluation import report
from genai_lifecycle.evaluation.results import ExperimentResult, TemplateScore
from genai_lifecycle.evaluation.statistics import Comparison, Interval, Verdict
from genai_lifecycle.store.prompt_registry import PromptRef

METRICS = {
    "token_f1": 0.5,
    "log_likelihood": -1.25,
    "success_rate": 1.0,
    "ended_rate": 0.75,
    "answer_words": 12.0,
    "seconds_per_answer": 0.05,
    "tokens_per_second": 300.0,
}


def score(name: str, f1: float) -> TemplateScore:
    prompt = PromptRef(name, 2, f"{name}: {{{{question}}}}")
    return TemplateScore(prompt, "run", METRICS | {"token_f1": f1}, Interval(f1, f1 - 0.1, f1 + 0.1))


RESULT = ExperimentResult(
    run_id="run",
    scores=(score("qa-expert", 0.6), score("qa-simple", 0.4)),
    verdict=Verdict(
        "win",
        "qa-expert",
        "qa-simple",
        "token_f1",
        Interval(0.2, 0.1, 0.3),
        10,
        None,
        (Comparison("qa-expert", "qa-simple", "win", Interval(0.2, 0.1, 0.3), 0.01),),
    ),  # fmt: skip
    winner=score("qa-expert", 0.6).prompt,
    cases=10,
    traces=20,
    judge="skipped: no judge model is configured",
    compute_s=1.0,
)


def row(prompt: str, number: int, answer: str = "An answer.") -> dict[str, object]:
    return {"prompt": prompt, "question": f"Question {number}?", "answer": answer, "token_f1": 0.5}


ROWS = [row(prompt, i, f"By {prompt}.") for prompt in ("qa-simple/2", "qa-expert/2") for i in range(10)]


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


def test_markdown_tells_verdict_scores_judge_and_examples():
    text = report.markdown(RESULT, ROWS)
    assert "**win: qa-expert beats qa-simple by +0.200 [+0.100, +0.300] token_f1** (10 cases" in text
    assert "| qa-expert/2 | [0.500, 0.700] | 0.600 | -1.250 | 1.000 |" in text
    assert text.index("| qa-expert/2 |") < text.index("| qa-simple/2 |")
    assert "Judge: skipped: no judge model is configured" in text
    assert text.count("By qa-expert/2. *(token F1 0.5)*") == report.EXAMPLES
    assert "By qa-simple/2." not in text


def test_the_table_has_as_many_columns_in_each_row():
    lines = [line for line in report.markdown(RESULT, ROWS).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(RESULT.scores)


def test_an_answer_of_several_lines_stays_one_item_of_the_list():
    text = report.markdown(RESULT, [row("qa-expert/2", 1, "one\n\n# two\n- three")])
    assert "- **Question 1?** one # two - three *(token F1 0.5)*\n" in text


def test_all_files_are_written(tmp_path):
    report.write(tmp_path, RESULT, ROWS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md", "results.csv", "prompts.json", "quality.png", "speed.png", "verdict.json", "differences.png",
    }  # fmt: skip
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    assert prompts[0] == {"name": "qa-expert", "version": 2, "template": "qa-expert: {{question}}"}
    for name in ("quality.png", "speed.png"):
        assert size_of_png((tmp_path / name).read_bytes()) == (840, 384)


def test_the_table_can_be_read_back(tmp_path):
    odd = 'a "quoted", line\nand 日本'
    report.write(tmp_path, RESULT, [row("qa-expert", 1, odd)])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        (read,) = csv.DictReader(file)
    assert (read["answer"], read["prompt"]) == (odd, "qa-expert")


@pytest.mark.parametrize("version", [None, 3])
def test_a_prompt_outside_a_registry_is_named(version):
    assert str(PromptRef("qa", version, "")) == ("qa/3" if version else "qa (not in a registry)")
