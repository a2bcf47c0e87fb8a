"""Which prompt goes into the next model version."""

from __future__ import annotations

import json
from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.evaluation.report import PROMPTS_FILE
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.templates import TEMPLATES
from genai_lifecycle.prompts.variables import variables_of
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import runs
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store

QUESTION = "question"


def prompt_in_production(config: E2EConfig, store: Store) -> PromptRef:
    """The template with the alias `production`; where the server keeps no prompts, the last experiment's winner.

    When several have the alias (by `evaluate --promote` or by hand, or an experiment was killed between its two last
    calls), it is the one that was put there last; of those of which no time is known, the last experiment's winner.

    Raises:
        NotFound: no experiment has ended yet.
        ConfigError: the template wants other variables than the model has to give.
    """
    prompt = _found(config, store)
    if variables_of(prompt.template) != (QUESTION,):
        raise ConfigError(
            f"{prompt} is in production, but {{{{{QUESTION}}}}} has to be its one variable.",
            hint=f"Put another version there: --mode prompts rollback --name {prompt.name}.",
        )
    return prompt


def _found(config: E2EConfig, store: Store) -> PromptRef:
    found = registry.in_production(list(TEMPLATES))
    if len(found) == 1:
        return found[0]
    latest = runs.latest_winner(store)
    if found:
        return max(found, key=lambda prompt: (promotion.since(prompt), latest is not None and str(prompt) == latest[1]))
    kept = _from_artifact(config, *latest) if latest else None
    if kept is None or kept.version is not None:  # with a version there is a registry, and nothing in production
        raise NotFound("No prompt is in production yet.", hint="Run --mode experiment first.")
    return kept


def _from_artifact(config: E2EConfig, run_id: str, winner: str) -> PromptRef:
    """The winner as an experiment's artifact has it; its version is None where there was no registry."""
    folder = config.staging_dir / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    records = json.loads(Path(runs.download(run_id, PROMPTS_FILE, folder)).read_text("utf-8"))
    prompts = [PromptRef(item["name"], item["version"], item["template"]) for item in records]
    return next(prompt for prompt in prompts if str(prompt) == winner)
