"""Run the whole life of a model: `python e2e_mlflow.py --mode all`.

For notebooks and scripts this module also hands out `E2EConfig`, `MLflow3E2ELifecycle`, `HuggingFaceModelWrapper`,
and LangChain's `HuggingFacePipeline` over our engine (`EnginePipeline`, `EngineLLM`); they are imported when first
asked for, so that `--help` stays fast.
"""

import atexit
import os
import sys

from genai_lifecycle.cli.main import INTERRUPTED, main
from genai_lifecycle.errors import StorageFailed, TrackingUnavailable

# After these a normal exit would wait, for minutes or for good, on what cannot end: MLflow's last traces to a server
# that is gone, transfers of files to a store that is gone or that nobody wants any more.
HELD_UP = {TrackingUnavailable.exit_code, StorageFailed.exit_code, INTERRUPTED}

_HANDED_OUT = {
    "E2EConfig": "genai_lifecycle.config",
    "MLflow3E2ELifecycle": "genai_lifecycle.lifecycle",
    "HuggingFaceModelWrapper": "served_model.huggingface_model",
    "EnginePipeline": "genai_lifecycle.models.engine_pipeline",
    "EngineLLM": "genai_lifecycle.models.engine_pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HANDED_OUT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HANDED_OUT[name]), name)


_code = 1  # an error that nobody foresaw, with its traceback


def _leave() -> None:
    """End the process at once, all output written: taking torch and MLflow apart takes seconds and serves nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)


def run() -> None:
    """The command: this file as a program, and `genai-lifecycle` where the package is installed."""
    global _code
    atexit.register(_leave)  # the first to be registered is the last to run
    try:
        _code = main()
    except SystemExit as exc:  # --help
        _code = int(exc.code or 0)
    if _code in HELD_UP:
        _leave()


if __name__ == "__main__":
    run()
