"""How a prompt is named on a command line: `NAME@ALIAS`, `NAME/VERSION`, or `NAME` for its newest version."""

from __future__ import annotations

import re

from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.prompt_registry import PromptRef

_FORM = re.compile(r"(prompts:/)?(?P<name>[\w.-]+)(@(?P<alias>[\w.-]+)|/(?P<version>[1-9]\d*))?")


def look_up(text: str) -> PromptRef:
    """The version in MLflow's registry. Raises ConfigError for another form, NotFound for what is not there."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"The prompt {text!r} is not named as one.", hint="Use NAME@ALIAS, NAME/VERSION or NAME.")
    prompt = registry.require(match["name"])
    number = int(match["version"]) if match["version"] else prompt.aliases.get(match["alias"] or "", prompt.latest)
    if match["alias"] not in (None, "latest", *prompt.aliases) or number is None:
        known = ", ".join(sorted(prompt.aliases)) or "none"
        raise NotFound(f"The prompt {prompt.name!r} has no {match['alias'] or 'version'!r}.", hint=f"Aliases: {known}.")
    found = registry.version_of(prompt, number)
    if found.is_chat:
        raise ConfigError(f"{found} is a list of chat messages.", hint="The model continues a text; use a text prompt.")
    return found.ref
