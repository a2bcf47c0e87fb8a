"""Reading a YAML file of settings that a person wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.runtime.validation import Invalid, parse

T = TypeVar("T")


def read_yaml(path: Path, kind: type[T], hint: str) -> T:
    """What the file says, as a dataclass. Keys that are left out or empty have their defaults.

    Raises:
        ConfigError: naming the file, the key and what is allowed, or that it cannot be read; with `hint`.
    """
    import yaml

    try:
        content = yaml.load(path.read_text("utf-8"), _loader()) or {}
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if value is not None}
        text = json.dumps(content, default=str)
    except OSError as exc:
        raise ConfigError(f"The file {path} cannot be read: {exc.strerror}.", hint=hint) from exc
    except (yaml.YAMLError, ValueError, TypeError) as exc:  # no YAML or no UTF-8; a circle of anchors; odd keys
        raise ConfigError(f"The file {path} is no YAML: {str(exc).splitlines()[0]}.", hint=hint) from exc
    try:
        return parse(kind, text)
    except Invalid as exc:
        raise ConfigError(f"{path}: {exc}.", hint=f"{exc.allowed} {hint}".strip()) from exc


def _loader() -> Any:
    """PyYAML's safe loader, but `on` and `off` are words (`mode: off`), and so are dates."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [item for item in resolvers if item[0].endswith((":null", ":int", ":float"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?i:true|false|yes|no)$"), list("tTfFyYnN"))
    return Loader
