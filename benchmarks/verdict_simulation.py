"""How often verdicts are right where the truth is known: `python benchmarks/verdict_simulation.py`.

Prompts are simulated that answer equally well, or one a little better; for each kind of score and number of cases it
prints how often the 95 % interval covers the truth, and how often one of equal prompts wins. docs/evaluation.md has
the figures. With the numbers there it takes about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genai_lifecycle.evaluation.statistics import ALPHA, difference_intervals

CASES = (20, 50, 200)
BETTER = 0.08  # by so much one prompt is better, where one is
RESAMPLES = 1000
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
    low, high = difference_intervals(first - second, 0, resamples=RESAMPLES)
    return float(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))


def won(kind: Callable, cases: int, comparisons: int, seed: int, prompts: int) -> float:
    """Share of the comparisons in which one of equal prompts wins: its lead over each other one is above 0.

    Of the steps of Holm's procedure only the last is made: a leader that passes it against its closest rival passes
    the others nearly always, so this counts a few wins too many.
    """
    scores = simulate(kind, cases, comparisons, seed, 0.0, prompts)
    ranked = np.take_along_axis(scores, scores.mean(axis=2).argsort(axis=0)[-2:, :, None], axis=0)
    low, _ = difference_intervals(ranked[1] - ranked[0], 0, 1 - ALPHA, resamples=RESAMPLES)
    return float(np.mean(low > 1e-9))


def shown(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):5.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--comparisons", type=int, default=1000, help="for each seed (default: 1000)")
    given = parser.parse_args()
    print("| scores | cases | equal: covered | better: covered | two equal: one wins | four equal: one wins |")
    for name, kind in KINDS.items():
        for cases in CASES:
            runs = [(kind, cases, given.comparisons, seed) for seed in range(given.seeds)]
            cells = [[covered(*run, 0.0) for run in runs], [covered(*run, BETTER) for run in runs],
                     [won(*run, 2) for run in runs], [won(*run, 4) for run in runs]]  # fmt: skip
            print(f"| {name} | {cases} | {' | '.join(map(shown, cells))} |", flush=True)


if __name__ == "__main__":
    main()
