"""What one step of the engine spends its time on: `python benchmarks/step.py IR [ROWS …]`. Prints a Markdown table.

OpenVINO's own counters, on one thread, for as many answers at once as there are rows. They count wall time: the machine
must be idle. `--group` tries another size of the groups in which a product's inputs are rounded to 8 bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import openvino

PROMPT_TOKENS, STEPS, WARM_UP = 6, 24, 4
HEAD = "lm_head"
KINDS = {"FullyConnected": "matrices", "ScaledDotProduct": "attention"}  # beginnings of the counters' types


class Steps:
    """A model in the middle of as many answers as there are rows."""

    def __init__(self, ir: Path, rows: int, group: str | None):
        precision = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        how = precision | ({"DYNAMIC_QUANTIZATION_GROUP_SIZE": group} if group else {})
        compiled = openvino.Core().compile_model(ir / "openvino_model.xml", "CPU", how | {"PERF_COUNT": True})
        self._request, self._rows, self._total = compiled.create_infer_request(), rows, 0
        self._infer(PROMPT_TOKENS)
        for _ in range(WARM_UP):
            self._infer(1)

    def _infer(self, tokens: int) -> None:
        self._total += tokens
        positions = np.arange(self._total - tokens, self._total)
        self._request.infer(
            {
                "input_ids": np.full((self._rows, tokens), 7),
                "attention_mask": np.ones((self._rows, self._total), np.int64),
                "position_ids": np.tile(positions, (self._rows, 1)),
                "beam_idx": np.arange(self._rows, dtype=np.int32),
            }
        )

    def step(self) -> tuple[float, Counter[str]]:
        """Processor seconds of one token for every row, and what the counters say of them."""
        started, spent = time.process_time(), Counter()
        self._infer(1)
        took_s = time.process_time() - started
        for node in self._request.get_profiling_info():
            kind = next((name for start, name in KINDS.items() if node.node_type.startswith(start)), "the rest")
            spent["the head" if HEAD in node.node_name else kind] += node.real_time.total_seconds()
        return took_s, spent


def line(ir: Path, rows: int, group: str | None) -> str:
    """Medians of the steps."""
    steps = Steps(ir, rows, group)
    seen = [steps.step() for _ in range(STEPS)]
    names = ("matrices", "the head", "attention", "the rest")
    shares = [statistics.median(spent[name] / sum(spent.values()) for _, spent in seen) for name in names]
    took_ms = 1000 * statistics.median(took_s for took_s, _ in seen)
    return f"| {rows} | {took_ms:.1f} | {' | '.join(f'{share:.0%}' for share in shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ir", type=Path, help="folder with openvino_model.xml")
    parser.add_argument("rows", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--group", help="32 is OpenVINO's default, 0 leaves the inputs as they are")
    given = parser.parse_args()
    print("| answers at once | processor ms a step | matrices | head | attention | the rest |")
    print("|---|---|---|---|---|---|")
    for rows in given.rows:
        print(line(given.ir, rows, given.group), flush=True)


if __name__ == "__main__":
    main()
