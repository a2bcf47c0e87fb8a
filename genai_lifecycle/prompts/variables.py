"""The stored form of a prompt: `{{name}}` is a variable, every other brace is text. Knows no registry."""

from __future__ import annotations

import re

from genai_lifecycle.errors import ConfigError

# MLflow's own pattern (mlflow.prompt.constants): what it does not match stays as text there, without a word.
VARIABLE = re.compile(r"\{\{\s*([a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*)\s*\}\}")
LONGEST = 100_000  # characters of a template that MLflow takes


def variables_of(template: str) -> tuple[str, ...]:
    """The names of the variables, each once, in the order of the text."""
    return tuple(dict.fromkeys(VARIABLE.findall(template)))


def require_sound(template: str) -> None:
    """Refuse what MLflow would store and nobody could fill in.

    Raises:
        ConfigError: the template is empty or too long, has a `{{` that opens no variable, or is Jinja.
    """
    if not template.strip():
        raise ConfigError("The template is empty.", hint="Give it with --template or --template-file.")
    if len(template) > LONGEST:
        raise ConfigError(f"The template has {len(template)} characters.", hint=f"Use {LONGEST} at most.")
    if "{%" in template and "%}" in template:
        raise ConfigError(
            "The template is Jinja ({% … %}).", hint="Use {{variable}} only; the served model reads that."
        )
    for part in VARIABLE.split(template)[::2]:
        if "{{" in part:
            raise _unsound(part)


def _unsound(part: str) -> ConfigError:
    """`part` holds a `{{` that opens no variable."""
    shown, end, _ = part[part.index("{{") :].partition("}}")
    shown = (shown + end).splitlines()[0][:60]
    if not end:
        return ConfigError(
            f"The template has an unclosed {{{{: {shown!r}.", hint="Close it with }}, or use a single {."
        )
    return ConfigError(
        f"{shown!r} is no variable.",
        hint="A name has letters a to z, digits and _, and starts with none of the digits. A single { is text.",
    )


def mismatch(template: str, former: str) -> str:
    """How the variables of two templates differ, as a sentence; empty where they are the same."""
    now, before = variables_of(template), variables_of(former)
    unknown = [name for name in now if name not in before]
    missing = [name for name in before if name not in now]
    told = [f"{word} {', '.join(names)}" for word, names in (("unknown", unknown), ("missing", missing)) if names]
    return f"its variables are not those in production: {'; '.join(told)}" if told else ""
