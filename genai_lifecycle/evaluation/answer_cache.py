"""The answer cache of an evaluation: one that was interrupted does not compute its answers twice.

A file below the staging folder, one line for each answer, written after each batch. It goes when the evaluation ends
well: the next one measures afresh.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.runtime.file_errors import storage_failed

log = logging.getLogger(__name__)

FOLDER = "evaluations"


def folder(staging_dir: Path) -> Path:
    """Where the caches are."""
    return staging_dir / FOLDER


class AnswerCache:
    """The answers of one evaluation, on disk. One process writes it: the lifecycle's lock sees to that."""

    def __init__(self, staging_dir: Path, identity: Mapping[str, object]):
        self.file = folder(staging_dir) / f"{key(identity)}.jsonl"
        self._known = dict(self._read())
        if self._known:
            log.info("%d answer(s) of an evaluation that was interrupted are used again.", len(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str) -> CaseAnswer | None:
        return self._known.get(name)

    def add(self, answers: Iterable[tuple[str, CaseAnswer]]) -> None:
        """Keep a batch. Raises StorageFailed when it cannot be written."""
        batch = dict(answers)
        lines = "".join(json.dumps({"key": name, **asdict(answer)}) + "\n" for name, answer in batch.items())
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as exc:
            raise storage_failed(exc) from exc
        self._known |= batch

    def close(self) -> None:
        """The evaluation ended well: the file goes."""
        self.file.unlink(missing_ok=True)

    def _read(self) -> Iterable[tuple[str, CaseAnswer]]:
        text = self.file.read_text("utf-8") if self.file.exists() else ""
        names = [item.name for item in fields(CaseAnswer)]
        for line in text.split("\n")[:-1]:  # a process that was killed may have left half a line at the end
            item = json.loads(line)
            yield item["key"], CaseAnswer(**{name: item[name] for name in names})
        if text and not text.endswith("\n"):
            self.file.write_text(text[: text.rfind("\n") + 1], "utf-8")


def key(identity: Mapping[str, object]) -> str:
    """A short name for what an answer depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]
