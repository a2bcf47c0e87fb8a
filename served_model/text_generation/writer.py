"""A growing answer: token ids in, text out, whole characters only, ended by a stop string across token borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Writer:
    """The text of one answer.

    Spaces at both ends are not part of an answer (unless `keeps_spaces`): they are held back until something
    follows them. So is whatever may still become a stop string.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, keeps_spaces: bool = False):
        self._tokenizer, self._stop = tokenizer, stop
        self._trim = str if keeps_spaces else str.strip
        self._held_back = max((len(text) - 1 for text in stop), default=0)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []  # tokens that have not been put into text yet
        self._raw = ""
        self._sent = 0  # characters of the stripped text
        self.ids: list[int] = []
        self.has_stopped = False

    def take(self, ids: Sequence[int]) -> None:
        """Take over all tokens so far; with stop strings, only up to the one that completed the first of them."""
        new = ids[len(self.ids) :]
        if self.has_stopped or not new:
            return
        if not self._stop:
            self.ids += new
            self._pending += new
            return
        for token in new:
            self.ids.append(token)
            self._append(token)
            if any(text in self._raw for text in self._stop):
                self.has_stopped = True
                return

    def delta(self, over: bool) -> str:
        """What is new and final since the last call."""
        if over:
            final = self.text()
            delta, self._sent = final[self._sent :], len(final)
            return delta
        for token in self._pending:
            self._append(token)
        self._pending.clear()
        safe = self._trim(self._raw[: max(0, len(self._raw) - self._held_back)])
        delta = safe[self._sent :]
        self._sent = max(self._sent, len(safe))
        return delta

    def text(self) -> str:
        """The answer so far, without what follows a stop string."""
        whole = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        ends = [whole.index(text) for text in self._stop if text in whole]
        return self._trim(whole[: min(ends)] if ends else whole)

    def _append(self, token: int) -> None:
        self._raw += self._stream.step(self._tokenizer, token) or ""
