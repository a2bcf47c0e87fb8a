"""The report's files: Markdown that names the winner, a table that can be read back, plots that are images."""

from __future__ import annotations

import csv
import json
import struct
from dataclasses import replace

import pytest

from genai_lifecycle.evaluation import report
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.statistics import Comparison, Interval, Verdict
from genai_lifecycle.store.prompt_registry import PromptRef

METRICS = {"ended_rate": 0.75, "latency_ms": 81.4, "tokens_per_second": 300.0}


def result(name: str, version: int, f1: float) -> PromptResult:
    prompt = PromptRef("qa", version, f"{name}: {{{{question}}}}", name)
    scores = {"token_f1": Interval(f1, f1 - 0.1, f1 + 0.1), "log_likelihood": Interval(-1.25, -1.5, -1.0)}
    return PromptResult(prompt.label, prompt, "", "run", "e", METRICS, scores)


BEST, OTHER = "qa/3 expert", "qa/1 simple"
DIFFERENCE = Interval(0.2, 0.1, 0.3)
VERDICT = Verdict(
    "win", BEST, OTHER, "token_f1", DIFFERENCE, 10, None, (Comparison(BEST, OTHER, "win", DIFFERENCE, 0.01),)
)
RESULT = EvaluationResult(
    run_id="run",
    results=(result("expert", 3, 0.6), result("simple", 1, 0.4)),
    verdict=VERDICT,
    cases=10,
    rows=20,
    reused=0,
    judge="skipped: no judge model is configured",
    dataset=None,
    left_out=("the key x is not supported",),
    compute_s=1.0,
    mlflow_s=1.0,
)


def row(prompt: str, number: int, answer: str = "An answer.") -> dict[str, object]:
    return {"prompt": prompt, "question": f"Question {number}?", "answer": answer}


ROWS = [row(prompt, i, f"By {prompt}.") for prompt in (OTHER, BEST) for i in range(10)]


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


def test_markdown_tells_verdict_scores_comparison_judge_examples_and_what_was_left_out():
    text = report.markdown(RESULT, ROWS)
    assert f"**win: {BEST} beats {OTHER} by +0.200 [+0.100, +0.300] token_f1** (10 cases" in text
    assert f"| {BEST} | 0.600 [0.500, 0.700] | -1.250 [-1.500, -1.000] | 75% | 81 | 300 |" in text
    assert text.index(f"| {BEST} |") < text.index(f"| {OTHER} |")
    assert f"| {OTHER} | +0.200 [+0.100, +0.300] | 0.0100 | win |" in text
    assert "Judge: skipped: no judge model is configured" in text
    assert text.count(f"By {BEST}.") == report.EXAMPLES and f"By {OTHER}." not in text
    assert text.endswith("- Left out: the key x is not supported\n")


def test_without_anything_to_compare_it_says_so():
    alone = replace(RESULT, results=RESULT.results[:1], verdict=None)
    assert "**nothing to compare** (10 cases)" in report.markdown(alone, ROWS)
    assert alone.winner.label == BEST


def test_an_answer_of_several_lines_stays_one_item_of_the_list():
    text = report.markdown(RESULT, [row(BEST, 1, "one\n\n# two\n- three")])
    assert "- **Question 1?** one # two - three\n" in text


def test_all_files_are_written(tmp_path):
    report.write(tmp_path, RESULT, ROWS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md", "results.csv", "prompts.json", "quality.png", "speed.png", "verdict.json", "differences.png",
    }  # fmt: skip
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    assert prompts[0] == {"name": "qa", "version": 3, "template": "expert: {{question}}", "template_name": "expert"}
    for name in ("quality.png", "speed.png"):
        assert size_of_png((tmp_path / name).read_bytes()) == (840, 384)


def test_the_table_can_be_read_back(tmp_path):
    odd = 'a "quoted", line\nand 日本'
    report.write(tmp_path, RESULT, [row("qa/3", 1, odd)])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        (read,) = csv.DictReader(file)
    assert (read["answer"], read["prompt"]) == (odd, "qa/3")


@pytest.mark.parametrize("version", [None, 3])
def test_a_prompt_outside_a_registry_is_named(version):
    assert str(PromptRef("qa", version, "")) == ("qa/3" if version else "qa (not in a registry)")
