"""How many questions the server takes at once, and how many one request may bring. Knows no model and no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from genai_server.errors import Overloaded, TooLarge


class QueueSlots:
    """Counts the questions that are under way or wait; each holds one slot. Safe to use from several threads.

    One request may hold half of the slots, and all requests with several questions together three quarters: the last
    quarter is kept for callers with one question.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.request_limit = max(1, limit // 2)
        self._batch_limit = max(1, limit * 3 // 4)
        self._lock = threading.Lock()
        self._in_use = self._in_batches = 0

    @property
    def in_use(self) -> int:
        return self._in_use

    @contextmanager
    def hold(self, count: int = 1, *, held: int = 0) -> Iterator[None]:
        """Slots for a request of `count` questions, for as long as the block runs.

        Args:
            held: slots that the request has already.

        Raises:
            TooLarge: no request may bring so many.
            Overloaded: there is no room for them now.
        """
        self.require_size(count)
        more, in_batch = max(0, count - held), count if count > 1 else 0
        with self._lock:
            is_full = self._in_use + more > self.limit
            if is_full or (in_batch and self._in_batches + in_batch > self._batch_limit):
                sentence = f"Too many questions wait already ({self._in_use}, at most {self.limit})."
                raise Overloaded(sentence, "Ask again in a second.")
            self._in_use += more
            self._in_batches += in_batch
        try:
            yield
        finally:
            with self._lock:
                self._in_use -= more
                self._in_batches -= in_batch

    def require_size(self, count: int) -> None:
        """Raises TooLarge for more questions than one request may bring."""
        if count > self.request_limit:
            raise TooLarge(
                f"The request has {count} questions; one request may have {self.request_limit}.",
                "Send several requests, or raise QUEUE_LIMIT, half of which this is.",
            )
