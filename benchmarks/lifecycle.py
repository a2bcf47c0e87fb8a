"""How long `--mode all` takes, split by stage and into model compute and the rest.

`python benchmarks/lifecycle.py` runs it in a fresh process on a fresh database, prints a table and writes
nothing else. Model compute is the time inside generation and scoring, in our process and in the test's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COMPUTE = {"experiment": "experiment", "deploy": "deployment", "test": "report"}  # stage -> field of the result


def run_once(base: Path) -> tuple[float, dict]:
    """Wall seconds of one whole life below `base`, and the summary it wrote."""
    environment = os.environ | {"LIFECYCLE_DATA_DIR": str(base / "artifacts")}
    environment |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{base / 'mlflow.db'}"}
    started = time.monotonic()
    command = [sys.executable, "e2e_mlflow.py", "--mode", "all", "--output-dir", str(base / "exported")]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    wall_s = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"--mode all ended with {done.returncode}:\n{done.stderr}")
    return wall_s, json.loads((REPO / "local_staging" / "last_run.json").read_text("utf-8"))


def table(wall_s: float, result: dict) -> str:
    """The split as Markdown; start-up is what is spent outside the stages."""
    lines = ["| stage | wall s | model compute s | rest s |", "|---|---|---|---|"]
    total_compute = 0.0
    for stage, seconds in result["seconds"].items():
        compute = result[COMPUTE[stage]]["compute_s"] if stage in COMPUTE else 0.0
        total_compute += compute
        lines.append(f"| {stage} | {seconds:.1f} | {compute:.1f} | {seconds - compute:.1f} |")
    outside = wall_s - sum(result["seconds"].values())
    lines.append(f"| start and end | {outside:.1f} | 0.0 | {outside:.1f} |")
    lines.append(f"| **all** | **{wall_s:.1f}** | **{total_compute:.1f}** | **{wall_s - total_compute:.1f}** |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs, each on a fresh database (default: 3)")
    given = parser.parse_args()
    results = []
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(run_once(Path(folder)))
    results.sort(key=lambda item: item[0])
    print(f"{len(results)} runs, wall {', '.join(f'{wall:.1f}' for wall, _ in results)} s; the median one:\n")
    print(table(*results[len(results) // 2]))


if __name__ == "__main__":
    main()
