"""The served model as MLflow's PyFunc. MLflow freezes this one file; the parts it uses are among the artifacts.

It imports none of our packages, so a version that is loaded years later runs exactly the code it was registered
with: `load_package` loads the artifact `code` (a copy of `served_model/text_generation`) under a name made from
its hash, so that two versions live in one process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd

# MLflow runs this file afresh for every load, so the lock is kept where all of them find it.
_importing = sys.__dict__.setdefault("_text_generation_importing", threading.RLock())


def load_package(folder: Path) -> ModuleType:
    """The Python package in `folder`, with its modules, under a private name.

    The name is made from the hash of its files and from the folder: the engine's program is started from there, so
    a package that was loaded from a folder that is gone will not do.
    """
    files = sorted(folder.glob("*.py"))
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    name = f"_text_generation_{_sha256(files)[:16]}_{place[:8]}"
    with _importing:
        if name not in sys.modules:
            _import_as(name, folder, files)
        return sys.modules[name]


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.name.encode() + b"\0" + path.read_bytes()).digest())
    return digest.hexdigest()


def _import_as(name: str, folder: Path, files: list[Path]) -> None:
    first = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, first, submodule_search_locations=[str(folder)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # The folder may be the model registry's own: no compiled files are to be left in it.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
        for path in files:
            if path.stem not in ("__init__", "openvino_worker"):  # the worker is a program of its own
                importlib.import_module(f"{name}.{path.stem}")
    except BaseException:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise
    finally:
        sys.dont_write_bytecode = writes


class HuggingFaceModelWrapper(mlflow.pyfunc.PythonModel):
    """A HuggingFace causal LM with its prompt, as an MLflow PyFunc.

    Artifacts: `code` (the package that answers), `model` (a folder in HuggingFace format, safetensors only), `prompt`
    (a JSON file: name, version, template, turn_format), `ir` (the converted model) and `golden` (questions with
    the answers recorded at deploy). The model config may have `engine` (auto, openvino, torch) and `threads`.

    `predict` is safe to call from several threads: callers share one running batch. A server that has an event
    loop uses `model` (a `QuestionModel`) directly.
    """

    def load_context(self, context: Any) -> None:
        package = load_package(Path(context.artifacts["code"]))
        self.model = package.question_model.QuestionModel.load(context.artifacts, context.model_config)
        # MLflow keeps the last model it read in a global of its own, with which a dropped one would live on.
        if getattr(mlflow.models.model, "__mlflow_model__", None) is self:
            mlflow.models.model.__mlflow_model__ = None

    # The hint says less than is accepted. pd.DataFrame is the one hint that MLflow neither warns about nor
    # enforces; any other one would refuse some of the accepted forms (docs/decisions/0003).
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Answer every question of the input, in order; one dict of `Answer` fields for each."""
        return self.model.answer(model_input, params)

    def predict_stream(self, context, model_input: pd.DataFrame, params=None):
        """Answer one question piece by piece."""
        yield from self.model.stream(model_input, params)


mlflow.models.set_model(HuggingFaceModelWrapper())
