"""Which prompt goes into the next model version."""

from __future__ import annotations

import json
from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.evaluation.report import PROMPTS_FILE
from genai_lifecycle.prompts.templates import PROMPT
from genai_lifecycle.prompts.variables import variables_of
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import runs
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store

QUESTION = "question"


def prompt_in_production(config: E2EConfig, store: Store) -> PromptRef:
    """The version of `qa` in production; where the server keeps no prompts, the last experiment's winner.

    Raises:
        NotFound: no experiment has ended yet.
        ConfigError: the template has other variables than the question.
    """
    prompt = registry.in_production(PROMPT) or _last_winner(config, store)
    if prompt is None:
        raise NotFound("No prompt is in production yet.", hint="Run --mode experiment first.")
    return require_question(prompt)


def require_question(prompt: PromptRef) -> PromptRef:
    """The prompt itself. Raises ConfigError where it has other variables than the question."""
    if variables_of(prompt.template) != (QUESTION,):
        raise ConfigError(
            f"{prompt} is in production, but {{{{{QUESTION}}}}} has to be its one variable.",
            hint=f"Put another version there: --mode prompts rollback --name {prompt.name}.",
        )
    return prompt


def _last_winner(config: E2EConfig, store: Store) -> PromptRef | None:
    """From the artifacts of the last experiment; only where it had no registry to put the winner into."""
    latest = runs.latest_winner(store)
    if latest is None:
        return None
    run_id, winner = latest
    folder = config.staging_dir / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    records = json.loads(Path(runs.download(run_id, PROMPTS_FILE, folder)).read_text("utf-8"))
    prompts = [PromptRef(**record) for record in records if record["version"] is None]
    return next((prompt for prompt in prompts if str(prompt) == winner), None)
