"""Prompts on a terminal: what is asked for next can be typed as it stands."""

from __future__ import annotations

import shlex

from genai_lifecycle.cli import main as cli
from genai_lifecycle.cli.flags import parse
from genai_lifecycle.cli.text.prompts import text_of
from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.stages.prompts import PromptsResult
from genai_lifecycle.store.prompt_registry import StoredPrompt, StoredVersion

PROMPT = StoredPrompt("qa", 2, {"production": 1}, {})
VERSION = StoredVersion("qa", 2, "A {{question}}", False, "", 0, {}, ())


def changed(decision: Decision) -> PromptsResult:
    return PromptsResult("update", "Registered qa/2.", (PROMPT,), (VERSION,), decision=decision)


def test_a_refused_version_is_told_with_the_command_that_measures_it(make_config):
    config = make_config()
    refused = Decision(False, False, "on", False, ("it was not evaluated",))
    *_, gate, command = text_of(config, changed(refused)).splitlines()
    assert gate == "  gate: refused: it was not evaluated"
    words = shlex.split(command.removeprefix("  next: "))
    mode, given = parse(cli.MODES, words[2:])
    assert words[1] == "e2e_mlflow.py" and mode == "evaluate" and given["promote"]
    assert list(given["prompt"]) == ["qa@production", "qa/2"]
    assert given["backend_store_uri"] == config.backend_store_uri


def test_one_that_may_go_there_needs_nothing_more(make_config):
    passed = Decision(True, True, "on", False, ("better",))
    assert "next" not in text_of(make_config(), changed(passed))
