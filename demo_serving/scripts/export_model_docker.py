"""Write the bundle: `python demo_serving/scripts/export_model_docker.py --model-uri models:/NAME/1 --output-dir DIR`.

The same as `python e2e_mlflow.py --mode export`, which takes the same flags; callable from any folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Returns the exit code of the mode."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from genai_lifecycle.cli.main import main as run

    return run([*argv, "--mode", "export"])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
