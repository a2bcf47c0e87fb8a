"""Where the base model comes from: the bundled GPT-2, a folder, or a name on the HuggingFace Hub.

What leaves this module is always a local folder with safetensors weights. Loading the model is not done here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.config import BUNDLED_MODEL, E2EConfig
from genai_lifecycle.errors import ModelNotLoadable, UnsafeWeights

log = logging.getLogger(__name__)

HUB_TIMEOUT_S = 4.0  # an unreachable Hub is told within 10 s, import of the client included
# What a causal language model of the GPT-2 family needs, and nothing that holds a pickle.
NEEDED_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
)  # fmt: skip
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelSource:
    """A base model that is ready to be loaded."""

    name: str  # as the user named it
    origin: str  # bundled | folder | hub
    path: str  # local folder with config.json and safetensors weights
    revision: str | None  # commit of a Hub model
    turn_format: str  # plain | dialogue
    weights_sha256: str  # over the safetensors files in the order of their names
    converted: bool = False  # the checkpoint had pickled weights, which were stored as safetensors

    def __str__(self) -> str:
        where = {
            "bundled": "bundled",
            "folder": "folder",
            "hub": f"Hub, revision {(self.revision or '')[:12]}",
        }
        notes = ", weights converted from a pickle to safetensors" if self.converted else ""
        return f"{self.name} ({where[self.origin]}, {self.turn_format} turns, sha256 {self.weights_sha256[:12]}{notes})"

    def as_params(self) -> dict[str, object]:
        """What is recorded on a run and a model version."""
        return {
            "model": self.name,
            "model_origin": self.origin,
            "model_revision": self.revision or "",
            "turn_format": self.turn_format,
            "weights_sha256": self.weights_sha256,
            "weights_converted": self.converted,
        }


def find_model(config: E2EConfig) -> ModelSource:
    """The base model that `config` names.

    Raises:
        ModelNotLoadable: no such folder or Hub name, the Hub is out of reach, or it is no causal language model.
        UnsafeWeights: only pickled weights that torch's weights-only loader refuses.
    """
    if config.model is None:
        name, origin, revision, folder = "bundled GPT-2", "bundled", None, BUNDLED_MODEL
    elif _is_folder_name(config.model):
        name, origin, revision, folder = config.model, "folder", None, Path(config.model).expanduser()
    else:
        name, origin = config.model, "hub"
        folder, revision = _from_hub(config.model, config.model_revision)
    settings = _read_config(folder, name)
    safe = folder if _has_safetensors(folder) else _converted(folder, name, config.staging_dir)
    return ModelSource(
        name=str(Path(name).name) if origin == "folder" else name,
        origin=origin,
        path=str(safe),
        revision=revision,
        turn_format=_turn_format(config.turn_format, config.model or "", settings),
        weights_sha256=weights_sha256(safe),
        converted=safe != folder,
    )


def _is_folder_name(model: str) -> bool:
    """A path rather than a Hub name: it exists, or it is written like one."""
    return Path(model).expanduser().exists() or model.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(model)


# --- the folder -----------------------------------------------------------------------------------


def _read_config(folder: Path, name: str) -> dict:
    """config.json of a causal language model; anything else is refused with the reason."""
    hint = "Give a folder in HuggingFace format, a Hub name, or leave --model out for the bundled GPT-2."
    if not folder.is_dir():
        raise ModelNotLoadable(f"There is no model folder {name!r}.", hint=hint)
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError as exc:
        raise ModelNotLoadable(f"The folder {name!r} is no model: it has no config.json.", hint=hint) from exc
    except (OSError, ValueError) as exc:
        raise ModelNotLoadable(f"The config.json of {name!r} cannot be read: {exc}.", hint=hint) from exc
    if not isinstance(settings, dict) or not _is_causal_lm(settings.get("model_type")):
        kind = settings.get("model_type") if isinstance(settings, dict) else None
        raise ModelNotLoadable(f"{name!r} is no causal language model (model_type is {kind!r}).", hint=hint)
    if not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
        raise ModelNotLoadable(f"The model {name!r} has no tokenizer (tokenizer.json or vocab.json).", hint=hint)
    return settings


def _is_causal_lm(model_type: object) -> bool:
    if model_type == "gpt2":  # the usual case, without the second that transformers' table takes to import
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _turn_format(wanted: str, name: str, settings: dict) -> str:
    """`auto` takes a checkpoint for a dialogue model by its name, or by DialoGPT's own mark in config.json."""
    if wanted != "auto":
        return wanted
    marked = "conversational" in (settings.get("task_specific_params") or {})
    return "dialogue" if marked or "dialogpt" in name.lower() else "plain"


def needed_files(folder: Path) -> list[Path]:
    """The files of a model folder that are packaged with it: no pickles, no other frameworks' weights."""
    return sorted({path for pattern in NEEDED_FILES for path in folder.glob(pattern)})


def weights_sha256(folder: Path) -> str:
    """One hash over all safetensors files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# --- pickled weights ------------------------------------------------------------------------------


def _converted(folder: Path, name: str, staging_dir: Path) -> Path:
    """A copy of the checkpoint with safetensors weights, read through torch's weights-only loader.

    The copy is kept under the hash of the pickle, so a second run does not convert again.
    """
    pickles = sorted(path for pattern in PICKLED_FILES for path in folder.glob(pattern))
    if not pickles:
        raise ModelNotLoadable(
            f"The model {name!r} has no weights (model.safetensors or pytorch_model.bin).",
            hint="Download it anew, or leave --model out for the bundled GPT-2.",
        )
    target = staging_dir / "converted" / _files_sha256(pickles)[:16]
    if not target.is_dir():
        log.info(
            "%s has only pickled weights; they are read by torch's weights-only loader and stored as safetensors.",
            name,
        )
        _convert(folder, name, target)
    return target


def _files_sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _convert(folder: Path, name: str, target: Path) -> None:
    """Write to a temporary name and rename, so that a killed run leaves no half-written checkpoint."""
    from pickle import UnpicklingError

    from transformers import AutoModelForCausalLM

    try:
        # transformers reads .bin files with torch.load(weights_only=True): a pickle that runs code is refused.
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=False)
    except (UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as exc:
        raise UnsafeWeights(
            f"The pickled weights of {name!r} are refused by torch's weights-only loader.",
            hint="Use a revision with model.safetensors; a pickle that needs more than tensors can run any code.",
        ) from exc
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    for path in needed_files(folder):
        shutil.copy2(path, temporary / path.name)
    temporary.rename(target)


# --- the Hub --------------------------------------------------------------------------------------


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """Folder and commit of a Hub model: from the local HuggingFace cache when it is there, else downloaded."""
    return _cached(name, revision) or _downloaded(name, revision)


def _cached(name: str, revision: str | None) -> tuple[Path, str] | None:
    """A snapshot in the cache that has weights; a partial one (config only) does not count."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    has_weights = _has_safetensors(folder) or any(folder.glob("pytorch_model*.bin"))
    return (folder, folder.name) if has_weights and (folder / "config.json").is_file() else None


def _downloaded(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    try:
        info = api.model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
        files = {item.rfilename for item in info.siblings or ()}
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*"
        patterns = [*NEEDED_FILES, weights]
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=patterns)), str(info.sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise _not_on_hub(name, revision, "the Hub has no such model, or it is private") from exc
    except HfHubHTTPError as exc:
        raise _not_on_hub(name, revision, f"the Hub answered {exc.response.status_code}") from exc
    except (HTTPError, OSError) as exc:
        why = "it is not in the local HuggingFace cache and the Hub cannot be reached"
        raise _not_on_hub(name, revision, why) from exc


def _not_on_hub(name: str, revision: str | None, why: str) -> ModelNotLoadable:
    named = f"{name!r} at revision {revision!r}" if revision else repr(name)
    return ModelNotLoadable(
        f"The model {named} cannot be loaded: {why}.",
        hint="Check the name, give a folder, or leave --model out for the bundled GPT-2.",
    )
