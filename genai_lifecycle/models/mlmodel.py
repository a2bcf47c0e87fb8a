"""MLflow's file `MLmodel` in a copy that leaves this machine: what it says of the machine goes, the rest stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = "MLmodel"


def forget_the_machine(model: Path) -> bool:
    """Take the paths of the machine that logged the model out of its MLmodel; returns whether there were any.

    MLflow loads by the relative `path` of each artifact and by the name of the code file. The absolute ones beside
    them say where the files once were, and MLflow reads them for nothing else than to see a `hf:/` address.

    Raises:
        ValueError: the file is no MLmodel.
    """
    import yaml

    file = model / FILE
    try:
        described = yaml.safe_load(file.read_text("utf-8"))
        cleaned = _cleaned(described)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as exc:
        raise ValueError(f"{FILE} cannot be read: {type(exc).__name__}") from exc
    if cleaned == described:
        return False
    file.write_text(yaml.safe_dump(cleaned, default_flow_style=False), "utf-8")
    return True


def _cleaned(described: dict[str, Any]) -> dict[str, Any]:
    flavor = described["flavors"]["python_function"]
    artifacts = {
        name: told | ({"uri": told["path"]} if "path" in told else {})
        for name, told in flavor.get("artifacts", {}).items()
    }
    code = {"model_code_path": Path(flavor["model_code_path"]).name} if flavor.get("model_code_path") else {}
    flavor = flavor | code | ({"artifacts": artifacts} if artifacts else {})
    kept = {name: value for name, value in described.items() if name != "artifact_path"}
    return kept | {"flavors": described["flavors"] | {"python_function": flavor}}
