"""Stored prompts (`{{variable}}`) as LangChain's PromptTemplate."""

from __future__ import annotations

import re
from typing import Any

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", re.ASCII)  # as MLflow reads names, but for its dots


def to_langchain_template(template: str) -> Any:
    """LangChain's PromptTemplate of a stored prompt: `{{name}}` is a variable, every other brace is text."""
    from langchain_core.prompts import PromptTemplate

    parts, end = [], 0
    for match in _VARIABLE.finditer(template):
        parts += [_escape_braces(template[end : match.start()]), "{" + match.group(1) + "}"]
        end = match.end()
    parts.append(_escape_braces(template[end:]))
    return PromptTemplate.from_template("".join(parts), template_format="f-string")


def _escape_braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
