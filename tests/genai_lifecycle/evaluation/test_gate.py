"""The gate's decisions from known scores, and its file."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REPO

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.gate import ANSWERED, ModelPolicy, Policy, decide, load_policy

RNG = np.random.default_rng(3)
HARD = RNG.beta(4, 3, 60)


def evidence(shift: float, *, cases: str = "c", name: str = "p/2", noise: float = 0.05, ms: float = 50.0) -> Evidence:
    values = np.clip(HARD + shift + RNG.normal(0, noise, 60), 0, 1)
    return Evidence(name, cases, {"token_f1": tuple(values)}, (ms,) * 60)


FORMER = evidence(0, name="p/1")


def test_a_better_and_an_equal_version_pass_and_a_worse_one_is_refused():
    better, equal, worse = (decide(Policy(), evidence(shift), FORMER) for shift in (0.1, 0.0, -0.2))
    assert (better.allowed, better.passed) == (True, True)
    assert any("better than p/1" in reason for reason in better.reasons)
    assert equal.allowed and any("not worse than p/1" in reason for reason in equal.reasons)
    assert (worse.allowed, worse.passed) == (False, False)
    assert str(worse).startswith("refused: ") and "worse than p/1: -0." in str(worse)
    assert worse.tags()["gate.decision"] == "refused" and "worse than p/1" in worse.tags()["gate.reasons"]


def test_too_few_cases_are_no_proof_and_the_gate_says_how_many_more():
    up_and_down = [0.2, -0.2, 0.1, -0.1, 0.15, -0.15, 0.02, 0.0]
    before = Evidence("p/1", "c", {"token_f1": (0.5,) * 8})
    found = decide(Policy(margin=0.01), Evidence("p/2", "c", {"token_f1": tuple(0.5 + x for x in up_and_down)}), before)
    assert not found.allowed
    assert any("may be worse than p/1 by more than 0.01" in reason for reason in found.reasons)
    assert "more cases needed" in str(found)
    assert decide(Policy(margin=0.2), Evidence("p/2", "c", {"token_f1": (0.5,) * 8}), before).allowed


def test_the_threshold_and_the_latency():
    assert not decide(Policy(threshold=0.9), evidence(0), None).allowed
    assert decide(Policy(threshold=0.3), evidence(0), None).allowed
    slow = decide(Policy(latency_ms=49), evidence(0.1), FORMER)
    assert not slow.allowed and "median answer in 50 ms, more than 49 ms" in str(slow)


def answering(*answered: float) -> Evidence:
    return Evidence("version 1", "c", {"token_f1": (0.0,) * len(answered), ANSWERED: answered}, (50.0,))


def test_a_model_that_says_nothing_is_refused_also_as_the_first():
    silent, half = decide(ModelPolicy(), answering(0, 0, 1), None), decide(ModelPolicy(), answering(1, 0), None)
    assert not silent.allowed and "1 of 3 questions got an answer, the others nothing, one token" in str(silent)
    assert "0.33 is below 0.5" in silent.tags()["gate.reasons"]
    assert half.passed and "1 of 2 questions got an answer: 0.50 is at least 0.5" in str(half)
    assert not decide(ModelPolicy(), evidence(0.1), None).allowed, "a model of which nobody knows whether it answers"
    assert decide(ModelPolicy(answered_rate=0), answering(0, 0), None).passed
    assert decide(ModelPolicy(), answering(0, 0), None, override=True).allowed


def test_nothing_known_or_other_cases_is_a_refusal():
    assert decide(Policy(), None, FORMER).reasons == ("it was not evaluated",)
    assert "has no bleu" in str(decide(Policy(metric="bleu"), evidence(0), FORMER))
    other = decide(Policy(), evidence(0.2), evidence(0, cases="d", name="p/1"))
    assert not other.allowed and "p/1 was not evaluated over the same cases" in str(other)
    assert not decide(Policy(), evidence(0.2), Evidence("p/1", "")).allowed
    assert decide(Policy(), evidence(0), None).allowed, "the first version has nothing to be compared with"


def test_modes_and_an_override():
    worse = evidence(-0.2)
    dry, off = decide(Policy(mode="dry-run"), worse, FORMER), decide(Policy(mode="off"), worse, FORMER)
    assert (dry.allowed, dry.passed, str(dry)[:17]) == (True, False, "refused (dry-run)")
    assert (off.allowed, off.reasons) == (True, ("the gate is off",))
    forced = decide(Policy(), worse, FORMER, override=True)
    assert (forced.allowed, forced.passed, forced.tags()["gate.forced"]) == (True, False, "true")
    assert str(forced).startswith("refused (overridden): ")


def test_the_file_of_this_checkout():
    assert load_policy(REPO / "gate.yaml", "prompt") == Policy()
    assert load_policy(REPO / "gate.yaml", "model") == ModelPolicy(mode="on", answered_rate=0.5)


@pytest.mark.parametrize(("word", "mode"), [("on", "on"), ("off", "off"), ("dry-run", "dry-run"), ("'on'", "on")])
def test_yaml_reads_on_and_off_as_truth_values(tmp_path, word, mode):
    (tmp_path / "g.yaml").write_text(f"prompt: {{mode: {word}, margin: 0.1}}\n")
    assert load_policy(tmp_path / "g.yaml", "prompt") == Policy(mode=mode, margin=0.1)
    assert load_policy(tmp_path / "g.yaml", "model") == ModelPolicy()


BAD = {
    "prompt: {mode: perhaps}": ("prompt.mode is 'perhaps'", "'on', 'dry-run' or 'off'"),
    "prompt: {mode: true}": ("prompt.mode is True", "'on', 'dry-run' or 'off'"),
    "prompt: {margin: -1}": ("prompt.margin is -1", "greater than or equal to 0"),
    "prompt: {margin: .nan}": ("prompt.margin is", "a finite number"),
    "prompt: {margin: true}": ("prompt.margin is True", "a valid number"),
    "prompt: {threshold: '0.5'}": ("prompt.threshold is '0.5'", "a valid number"),
    "prompt: {metric: 3}": ("prompt.metric is 3", "a valid string"),
    "prompt: {metrik: f1}": ("prompt.metrik is unknown", "Use mode, metric, threshold, margin, latency_ms."),
    "prompt: {answered_rate: 0.5}": ("prompt.answered_rate is unknown", "Use mode"),
    "prompt: [1]": ("prompt is [1]", "an object"),
    "promt: {}": ("promt is unknown", "Use prompt, model."),
    "model: {answered_rate: -0.1}": ("model.answered_rate is -0.1", "greater than or equal to 0"),
    "model: {answered_rate: 50}": ("model.answered_rate is 50", "less than or equal to 1"),
    "prompt: {": ("is no YAML", "every key"),
    "- 1": ("the content is [1]", "an object"),
    "a: &a [*a]": ("is no YAML: Circular reference", "every key"),
    "!!timestamp 2026-01-01: 1": ("is no YAML: keys must be", "every key"),
}


@pytest.mark.parametrize("content", BAD)
def test_a_wrong_file_is_named_with_the_key_and_what_is_allowed(tmp_path, content):
    (tmp_path / "g.yaml").write_text(content)
    problem, allowed = BAD[content]
    with pytest.raises(ConfigError) as error:
        load_policy(tmp_path / "g.yaml", "prompt")
    assert "g.yaml" in error.value.args[0] and problem in error.value.args[0] and allowed in error.value.hint


def test_a_section_without_a_key_has_the_defaults(tmp_path):
    (tmp_path / "g.yaml").write_text("prompt:\nmodel: {margin: 0}\n")
    assert load_policy(tmp_path / "g.yaml", "prompt") == Policy()
    assert load_policy(tmp_path / "g.yaml", "model") == ModelPolicy(margin=0)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_policy(tmp_path / "none.yaml", "prompt")
