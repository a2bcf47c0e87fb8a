"""What a caller may ask for beside the question, and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

from .errors import bad_input

MOST_TOP_K = 1_000_000  # larger than any vocabulary
MOST_STOPS, LONGEST_STOP = 8, 200  # strings, and characters of one: each is looked for after every token


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated. Raises MlflowException (served as a 400) naming the value that is wrong."""

    max_new_tokens: int = 96
    temperature: float = 0.0  # 0 is greedy: always the most likely token
    top_p: float = 1.0  # smallest set of tokens whose probabilities add up to this much
    top_k: int = 0  # 0 = all tokens
    repetition_penalty: float = 1.0  # above 1 makes a token less likely once it has been used, in the prompt too
    seed: int = -1  # -1 = another draw on every call; without effect at temperature 0
    stop: tuple[str, ...] = ()  # the answer ends before the first of these strings
    timeout_s: float = 60.0  # for the whole call; the answer so far is returned with finish_reason "timeout"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(str(text) for text in self.stop))
        for name, kind in _NUMBERS.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), kind))
        _require(1 <= self.max_new_tokens <= 1024, "max_new_tokens", self.max_new_tokens, "from 1 to 1024")
        # Smaller ones than these two bounds are lost in a float32, and would end in nonsense or an error.
        heat = self.temperature
        _require(heat == 0 or 0.01 <= heat <= 5, "temperature", heat, "that is 0, or from 0.01 to 5")
        _require(0.001 <= self.top_p <= 1, "top_p", self.top_p, "from 0.001 to 1")
        _require(0 <= self.top_k <= MOST_TOP_K, "top_k", self.top_k, f"from 0 (all tokens) to {MOST_TOP_K}")
        _require(0.1 <= self.repetition_penalty <= 10, "repetition_penalty", self.repetition_penalty, "from 0.1 to 10")
        _require(-1 <= self.seed < 2**63, "seed", self.seed, "-1 (a new draw each time) or more")
        bounds = f"up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters"
        are_bounded = len(self.stop) <= MOST_STOPS and all(1 <= len(text) <= LONGEST_STOP for text in self.stop)
        _require(are_bounded, "stop", [text[:20] for text in self.stop[: MOST_STOPS + 1]], bounds)
        _require(0 < self.timeout_s <= 3600, "timeout_s", self.timeout_s, "above 0 and up to 3600")

    @classmethod
    def from_params(cls, params: Mapping[str, Any] | None) -> Sampling:
        """From MLflow's checked parameters; None stands for the default."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        return cls(**known)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


_NUMBERS = {
    "max_new_tokens": int, "temperature": float, "top_p": float, "top_k": int, "repetition_penalty": float,
    "seed": int, "timeout_s": float,
}  # fmt: skip


def _number(name: str, value: Any, kind: type) -> Any:
    """A plain int or float of any kind of number, numpy's too. NaN is refused by the bounds."""
    if isinstance(value, bool) or not isinstance(value, Number) or (kind is int and value != int(value)):
        raise bad_input(f"{name} is {value!r}; use a {'whole ' if kind is int else ''}number.")
    return kind(value)


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise bad_input(f"{name} is {value!r}; use a value {allowed}.")
