"""The engine against the memory: `python benchmarks/engine.py`. Prints a Markdown table.

A token of a single answer needs every weight once, so no engine can make more of them in a second than the memory can
deliver the weights. The limit is read bandwidth, measured in the same run, over the bytes of the converted weights.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import LEAST_REQUESTS, REPO, ROUNDS
from weights import make_gpt2_small, package

from served_model.text_generation.openvino_engine import worker_environment

GIB = 2**30
BANDWIDTH_RUNS = 7


def read_bandwidth() -> float:
    """Bytes a second that both cores together read from memory; the best of a few runs over 1 GiB."""
    import torch

    values = torch.ones(GIB // 4)
    best_s = float("inf")
    for _ in range(BANDWIDTH_RUNS):
        started = time.perf_counter()
        values.sum()
        best_s = min(best_s, time.perf_counter() - started)
    return GIB / best_s


def tokens_per_second(model: Path, clients: int) -> float:
    """Of the bare pipeline, in a process of its own."""
    requests = max(LEAST_REQUESTS, ROUNDS * clients)
    command = [sys.executable, str(REPO / "benchmarks" / "raw.py"), "openvino", str(model), str(clients), str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=worker_environment())
    return json.loads(done.stdout.splitlines()[-1])["tokens_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for the weights, kept for the next run")
    given = parser.parse_args()
    if os.environ != worker_environment():  # memory is read here with the pages that the engine has
        os.execve(sys.executable, [sys.executable, *sys.argv], worker_environment())
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        checkpoint = work / "gpt2-small"
        if not checkpoint.exists():
            make_gpt2_small(checkpoint)
        print(
            "| weights | bytes a token | read bandwidth GB/s | limit tokens/s | 1 answer at a time | share | 8 | 32 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for precision in ("fp32", "int8"):
            print(_line(work, checkpoint, precision), flush=True)


def _line(work: Path, checkpoint: Path, precision: str) -> str:
    folder = work / f"ours-gpt2-small-{precision}"
    if not folder.exists():
        package(checkpoint, folder, precision)
    weights = (folder / "package" / "artifacts" / "ir" / "openvino_model.bin").stat().st_size
    bandwidth = read_bandwidth()
    limit = bandwidth / weights
    one, eight, many = (tokens_per_second(folder / "package", clients) for clients in (1, 8, 32))
    return (
        f"| {precision} | {weights / 1e6:.0f} MB | {bandwidth / 1e9:.1f} | {limit:.0f} | {one:.0f} | "
        f"{one / limit:.0%} | {eight:.0f} | {many:.0f} |"
    )


if __name__ == "__main__":
    main()
