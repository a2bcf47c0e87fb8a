"""`ModelInfo`: who answers. `ModelIdentity`: who a model is that is served from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What the registry, or the manifest of a bundle, says of a model version."""

    model: str
    model_version: str | None = None
    model_alias: str | None = None
    run_id: str | None = None
    base_model: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model: its identity, the prompt that is frozen in it, and the engine that answers."""

    model: str
    model_uri: str = ""
    model_version: str | None = None
    model_alias: str | None = None
    prompt: str = ""  # name/version; empty = none
    turn_format: str | None = None
    run_id: str | None = None
    base_model: str | None = None
    weights_sha256: str | None = None
    engine: Mapping[str, str | int | None] = field(default_factory=dict)  # each engine describes itself

    def __str__(self) -> str:
        """For people; a model from a folder may have no version."""
        return f"{self.model} version {self.model_version}" if self.model_version else self.model

    @property
    def version_uri(self) -> str:
        """Address of the loaded version; empty for a model from a folder, whose files may have changed."""
        is_registered = self.model_uri.startswith("models:/") and self.model_version
        return f"models:/{self.model}/{self.model_version}" if is_registered else ""

    def identified_as(self, identity: ModelIdentity) -> ModelInfo:
        """The same with another identity."""
        return replace(self, **asdict(identity))
