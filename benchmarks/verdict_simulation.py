"""How often verdicts are right where the truth is known: `python benchmarks/verdict_simulation.py`.

Prompts are simulated that answer equally well, or one a little better; for each kind of score and number of cases it
prints how often the 95 % intervals cover the truth, and how often one of equal prompts wins. docs/evaluation.md has
the figures. With the numbers there it takes about half an hour of one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genai_lifecycle.evaluation.statistics import ALPHA, Interval, difference_interval, mean_interval, p_values

CASES = (20, 50, 200)
BETTER = 0.08  # by so much one prompt is better, where one is
RESAMPLES = 999
MOST_ROWS = 100  # tested in memory together
Scores = Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]  # (comparisons, cases) of one prompt


def graded(rng: np.random.Generator, hard: np.ndarray, better: float) -> np.ndarray:
    """As F1 scores are: hard and easy cases, and chance."""
    return np.clip(np.sqrt(norm.cdf(hard)) * 0.6 + better + rng.normal(0, 0.15, hard.shape), 0, 1)


def mostly_alike(rng: np.random.Generator, hard: np.ndarray, better: float) -> np.ndarray:
    """Four of five cases are answered word for word in 93 of 100; an answer that is not has little of the reference."""
    right = rng.random(hard.shape) < np.where(hard < norm.ppf(0.8), 0.93, 0.35 + better)
    return np.where(right, 1.0, rng.beta(1.5, 5, hard.shape))


def right_or_wrong(share: float) -> Callable[[np.random.Generator, np.ndarray, float], np.ndarray]:
    """0 or 1; what is hard for one prompt is hard for the other."""

    def scores(rng: np.random.Generator, hard: np.ndarray, better: float) -> np.ndarray:
        return ((hard + rng.normal(0, 1, hard.shape)) / np.sqrt(2) < norm.ppf(share + better)).astype(float)

    return scores


def seldom_bad(rng: np.random.Generator, hard: np.ndarray, better: float) -> np.ndarray:
    """One answer in eight loses much of its score; the better prompt loses in one of 25."""
    lost = (rng.random(hard.shape) < 0.12 - better) * rng.beta(5, 2, hard.shape)
    return np.clip(norm.cdf(hard / 2 + 0.6) - lost, 0, 1)


KINDS = {"graded": graded, "mostly alike": mostly_alike, "right in 50 %": right_or_wrong(0.5),
         "right in 80 %": right_or_wrong(0.8), "seldom bad": seldom_bad}  # fmt: skip


def simulate(kind: Callable, cases: int, comparisons: int, seed: int, better: float, prompts: int = 2) -> np.ndarray:
    """Scores as (prompts, comparisons, cases); the first prompt is the better one."""
    rng = np.random.default_rng([seed, cases, prompts])
    hard = rng.normal(0, 1, (comparisons, cases))
    return np.stack([kind(rng, hard, better if number == 0 else 0.0) for number in range(prompts)])


def covered(kind: Callable, cases: int, comparisons: int, seed: int, better: float) -> float:
    """Share of the 95 % intervals that hold the true difference."""
    many = simulate(kind, 1000, 2000, 10**6, better)
    truth = float((many[0] - many[1]).mean()) if better else 0.0
    first, second = simulate(kind, cases, comparisons, seed, better)
    return share_holding(truth, [difference_interval(row) for row in first - second])


def covered_mean(kind: Callable, cases: int, comparisons: int, seed: int) -> float:
    """Share of the 95 % intervals that hold the true mean of one prompt; of fewer, since each takes 5 ms."""
    truth = float(simulate(kind, 1000, 2000, 10**6, 0.0)[0].mean())
    scores = simulate(kind, cases, max(1, comparisons // 10), seed, 0.0)[0]
    return share_holding(truth, [mean_interval(row, seed) for row in scores])


def share_holding(truth: float, intervals: Sequence[Interval]) -> float:
    return float(np.mean([item.low <= truth + 1e-9 and truth - 1e-9 <= item.high for item in intervals]))


def won(kind: Callable, cases: int, comparisons: int, seed: int, prompts: int, better: float = 0.0) -> float:
    """Share of the comparisons in which the leader wins.

    Of the steps of Holm's procedure only the last is made: a leader that passes it against its closest rival passes
    the others nearly always, so this counts a few wins too many.
    """
    scores = simulate(kind, cases, comparisons, seed, better, prompts)
    ranked = np.take_along_axis(scores, scores.mean(axis=2).argsort(axis=0)[-2:, :, None], axis=0)
    parts = np.array_split(ranked[1] - ranked[0], max(1, comparisons // MOST_ROWS))
    p = np.concatenate([p_values(part, number, RESAMPLES) for number, part in enumerate(parts)])
    return float(np.mean(p <= ALPHA))


def shown(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):5.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--comparisons", type=int, default=1000, help="for each seed (default: 1000)")
    options = parser.parse_args()
    print("| scores | cases | equal: covered | better: covered | mean: covered | two equal: one wins "
          "| four equal: one wins | better: wins |")  # fmt: skip
    for name, kind in KINDS.items():
        for cases in CASES:
            runs = [(kind, cases, options.comparisons, seed) for seed in range(options.seeds)]
            cells = [[covered(*run, 0.0) for run in runs], [covered(*run, BETTER) for run in runs],
                     [covered_mean(*run) for run in runs], [won(*run, 2) for run in runs],
                     [won(*run, 4) for run in runs], [won(*run, 2, BETTER) for run in runs]]  # fmt: skip
            print(f"| {name} | {cases} | {' | '.join(map(shown, cells))} |", flush=True)


if __name__ == "__main__":
    main()
