"""Run the whole life of a model: `python e2e_mlflow.py --mode all`.

For notebooks and scripts this module also hands out `E2EConfig`, `MLflow3E2ELifecycle` and
`HuggingFaceModelWrapper`; they are imported when first asked for, so that `--help` stays fast.
"""

import os
import sys

from genai_lifecycle.cli import main
from genai_lifecycle.errors import TrackingUnavailable

_HANDED_OUT = {
    "E2EConfig": "genai_lifecycle.config",
    "MLflow3E2ELifecycle": "genai_lifecycle.pipeline",
    "HuggingFaceModelWrapper": "served_model.huggingface_model",
}


def __getattr__(name: str):
    if name not in _HANDED_OUT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HANDED_OUT[name]), name)


if __name__ == "__main__":
    code = main()
    if code == TrackingUnavailable.exit_code:
        # At a normal exit MLflow would try for minutes to deliver its last traces to a server that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
