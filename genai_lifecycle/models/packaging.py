"""Model folder and prompt -> logged MLflow model. The only call of `log_model`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from genai_lifecycle.config import CHECKOUT
from genai_lifecycle.models.source import ModelSource, needed_files
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.seam import seam

MODEL_CODE = CHECKOUT / "served_model" / "huggingface_model.py"
ENTRY = ("MLmodel", MODEL_CODE.name)  # the first, by MLflow, names the second, which runs wherever it is loaded
PACKAGE_CODE = CHECKOUT / "served_model" / "text_generation"
# What the served code imports when it answers, at the versions it was tested with here. Written out, because
# MLflow's own inference of requirements loads the model in a second process.
REQUIREMENTS = ("mlflow", "tokenizers", "langchain-core", "pandas", "numpy")
ENGINE_REQUIREMENTS = {
    "openvino": ("openvino", "openvino-genai"),
    "torch": ("torch", "transformers", "safetensors"),
}


def stage(folder: Path, source: ModelSource, prompt: PromptRef) -> None:
    """Lay out the model's artifacts below `folder`: model/ (safetensors only), code/ and prompt.json."""
    model = folder / "model"
    model.mkdir(parents=True)
    for path in needed_files(Path(source.path)):
        shutil.copyfile(path, model / path.name)  # copyfile follows the links of the HuggingFace cache
    if not (model / "tokenizer.json").exists():
        _write_tokenizer(Path(source.path), model / "tokenizer.json")
    shutil.copytree(PACKAGE_CODE, folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "prompt.json").write_text(json.dumps(prompt_record(source, prompt), indent=2), "utf-8")


def _write_tokenizer(checkpoint: Path, file: Path) -> None:
    """Older checkpoints have vocab.json and merges.txt only; a served model reads one file, without transformers."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(checkpoint, local_files_only=True).backend_tokenizer.save(str(file))


def prompt_record(source: ModelSource, prompt: PromptRef) -> dict[str, object]:
    """The frozen prompt as the served model reads it."""
    return {
        "name": prompt.name,
        "version": prompt.version,
        "template": prompt.template,
        "turn_format": source.turn_format,
    }


def write_golden(folder: Path, golden: Sequence[Mapping[str, object]]) -> None:
    """Golden answers: question, answer and greedy token ids, which a loaded model must give again."""
    (folder / "golden.json").write_text(json.dumps(list(golden), indent=2, ensure_ascii=False), "utf-8")


@seam
def log_model(
    folder: Path,
    source: ModelSource,
    prompt: PromptRef,
    *,
    engine: str,
    example_question: str,
    max_new_tokens: int,
    metrics: Mapping[str, float],
) -> str:
    """Log what `stage`, the conversion and `write_golden` laid out, to the run under way; returns the LoggedModel's id.

    Args:
        engine: the one that will answer; the requirements name its libraries only.
        metrics: of the prompt in its experiment; they are linked to the LoggedModel.
    """
    import mlflow

    info = mlflow.pyfunc.log_model(
        name="model",
        input_example={"question": [example_question]},
        params=_as_text(source.as_params() | {"prompt": str(prompt)}),
        tags=_as_text(source.as_params() | {"prompt_name": prompt.name, "prompt_version": prompt.version or ""}),
        prompts=[f"prompts:/{prompt.name}/{prompt.version}"] if prompt.version else None,
        **_package(folder, engine, max_new_tokens),
    )
    mlflow.log_metrics(dict(metrics), model_id=info.model_id)
    return info.model_id


@seam
def stored_entry(model_id: str, folder: Path) -> Path:
    """A copy, below `folder`, of the two files by which MLflow loads the model, as it stored them (ENTRY)."""
    import mlflow

    entry, stored = folder / "entry", mlflow.get_logged_model(model_id).artifact_location
    for name in ENTRY:
        mlflow.artifacts.download_artifacts(f"{stored}/{name}", dst_path=str(entry))
    return entry


@seam
def save_model(folder: Path, target: Path, *, engine: str, max_new_tokens: int) -> None:
    """The same package as a folder of its own, without a run or a registry."""
    import mlflow

    mlflow.pyfunc.save_model(target, **_package(folder, engine, max_new_tokens))


def _package(folder: Path, engine: str, max_new_tokens: int) -> dict[str, object]:
    """What makes a PyFunc of the staged files."""
    return {
        "python_model": str(MODEL_CODE),
        "artifacts": {name: str(folder / file) for name, file in ARTIFACTS.items()},
        "signature": _signature(max_new_tokens),
        "pip_requirements": pinned(*REQUIREMENTS, *ENGINE_REQUIREMENTS[engine]),
        "model_config": {"engine": "auto", "threads": 0},
    }


ARTIFACTS = {"code": "code", "model": "model", "ir": "ir", "prompt": "prompt.json", "golden": "golden.json"}


def pinned(*names: str) -> list[str]:
    """Requirement lines at the versions that are installed here."""
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def _as_text(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _signature(max_new_tokens: int):
    """Parameters only: the one form that hands every kind of input through untouched (decision 0003)."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ParamSchema, ParamSpec

    return ModelSignature(
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", "long", max_new_tokens),
                ParamSpec("temperature", "double", 0.0),
                ParamSpec("top_p", "double", 1.0),
                ParamSpec("top_k", "long", 0),
                ParamSpec("repetition_penalty", "double", 1.0),
                ParamSpec("seed", "long", -1),
                ParamSpec("stop", "string", [], shape=(-1,)),
                ParamSpec("timeout_s", "double", 60.0),
            ]
        )
    )
