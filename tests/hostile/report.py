"""The table of attacks: what each row holds, what it has to keep, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hostile.live_server import Memory

PROBE_MOST_S = 0.25  # a probe's worst answer
CALLER_MORE_S = 2.0  # another caller's worst answer, beyond its worst when nobody attacks
MEMORY_MORE = 0.05  # of what the server held at the start
CALLER_ANSWERS = {"200", "429", "503"}  # the last two with the time to ask again, which is part of the latency


@dataclass(frozen=True)
class Views:
    """What the bystanders saw, in seconds: as measured, and without the stalls of the machine."""

    probe_s: float
    probe_server_s: float
    caller_s: float
    caller_server_s: float
    stall_s: float  # the control: the longest time for which the bystanders were not run
    others_cores: float  # the other one: how much of the machine programs took that are none of ours
    probe_answers: Mapping[str, int]
    caller_answers: Mapping[str, int]

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any], others_cores: float) -> Views:
        """From what `bystanders.py` prints."""
        probe, caller = summary["probe"], summary["caller"]
        return cls(
            probe["worst_s"], probe["server_s"], caller["worst_s"], caller["server_s"], summary["stall_s"],
            others_cores, probe["answers"], caller["answers"],
        )  # fmt: skip


@dataclass
class Row:
    """One attack and what it did."""

    attack: str
    happened: str
    alone: Views | None = None
    during: Views | None = None
    memory: tuple[Memory, Memory] | None = None  # before, after
    caller_more_s: float = CALLER_MORE_S
    broken: Sequence[str] = ()

    def judge(self) -> Sequence[str]:
        """What of the bar was not kept."""
        self.broken = [*self.broken, *(_broken(self) if self.during and self.alone else ())]
        return self.broken

    def cells(self) -> list[str]:
        alone, during = self.alone, self.during
        latencies = ["–", "–", "–"]
        if alone and during:
            latencies = [f"{alone.caller_s:.2f} → {during.caller_s:.2f} s", f"{during.probe_s:.3f} s"]
            latencies.append(f"{during.stall_s:.3f} s, {during.others_cores:.1f} cores")
        return [self.attack, self.happened, *latencies, _grown(self.memory), "; ".join(self.broken) or "kept"]


def _grown(memory: tuple[Memory, Memory] | None) -> str:
    if memory is None:
        return "–"
    before, after = memory
    return f"{before.server:.0f} + {before.engines:.0f} → {after.server:.0f} + {after.engines:.0f} MiB"


def _broken(row: Row) -> list[str]:
    during, most_s = row.during, row.alone.caller_s + row.caller_more_s
    broken = []
    if during.probe_server_s > PROBE_MOST_S:
        broken.append(f"a probe waited {during.probe_server_s:.2f} s, more than {PROBE_MOST_S} s")
    if during.caller_server_s > most_s:
        broken.append(f"another caller waited {during.caller_server_s:.1f} s, more than {most_s:.1f} s")
    if set(during.probe_answers) - {"200"}:
        broken.append(f"probes got {counted(during.probe_answers)}")
    if set(during.caller_answers) - CALLER_ANSWERS:
        broken.append(f"another caller got {counted(during.caller_answers)}")
    return broken


HEADER = [
    "attack", "what happened", "another caller's worst, alone → during", "a probe's worst",
    "control: the machine's longest stall, and what others took of it", "memory of server + engine, before → after",
    "the bar",
]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    cells = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def counted(answers: Mapping[str, int]) -> str:
    """`3 × 200, 1 × left`."""
    return ", ".join(f"{count:,} × {answer}" for answer, count in sorted(answers.items()) if count)
