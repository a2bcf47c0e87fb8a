"""Reading a YAML file that a person wrote. What may stand in it is checked by who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genai_lifecycle.errors import ConfigError


def read_yaml(path: Path, hint: str) -> Any:
    """What the file says; an empty dict where it says nothing. Raises ConfigError, with `hint`, naming the file."""
    import yaml

    try:
        return yaml.safe_load(path.read_text("utf-8")) or {}
    except OSError as exc:
        raise ConfigError(f"The file {path} cannot be read: {exc.strerror}.", hint=hint) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The file {path} is no YAML: {str(exc).splitlines()[0]}.", hint=hint) from exc
