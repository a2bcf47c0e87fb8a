"""Cases: what is asked, what should come back. How they are written in files is in `case_files.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from genai_lifecycle.evaluation.checks import Assertion


@dataclass(frozen=True)
class Case:
    """A question, the answer it should get, and what must be true of any answer."""

    question: str  # empty where the prompt's variables are others
    reference: str = ""  # empty: none
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)  # of the prompt, beside `question`
    checks: tuple[Assertion, ...] = ()
    threshold: float | None = None  # weighted mean of the checks that is enough; None: every check must pass
    name: str = ""  # what a file calls it

    @property
    def inputs(self) -> dict[str, str]:
        """Every variable that a prompt may use."""
        return ({"question": self.question} if self.question else {}) | dict(self.variables)


def cases_sha256(cases: Sequence[Case]) -> str:
    """Tells whether two scores are over the same cases, in the same order."""
    return hashlib.sha256(json.dumps([_identity(case) for case in cases]).encode()).hexdigest()


def _identity(case: Case) -> list[object]:
    more = [dict(case.variables), [asdict(check) for check in case.checks], case.threshold]
    return [case.question, case.reference, *(more if any(more) else [])]


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` cases taken at even distances, so that a sorted file gives a fair sample; all if there are fewer."""
    if count >= len(cases):
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]
