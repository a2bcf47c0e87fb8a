"""How many questions the server takes at once, and how many one request may bring. Knows no model and no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from genai_server.errors import Overloaded, TooLarge


class Places:
    """Counts the questions that are under way or wait; each holds one place. Safe to use from several threads.

    A request may bring half of the limit, and requests of many questions may hold three quarters of it together: the
    last quarter is kept for callers with one question.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.most_of_a_request = max(1, limit // 2)
        self._most_of_many = max(1, limit * 3 // 4)
        self._lock = threading.Lock()
        self._taken = self._of_many = 0

    @property
    def taken(self) -> int:
        return self._taken

    @contextmanager
    def take(self, count: int = 1, *, held: int = 0) -> Iterator[None]:
        """Places for a request of so many questions, for as long as the block runs.

        Args:
            held: places that the request has already.

        Raises:
            TooLarge: no request may bring so many.
            Overloaded: there is no room for them now.
        """
        if count > self.most_of_a_request:
            raise TooLarge(
                f"The request has {count} questions; one request may have {self.most_of_a_request}.",
                "Send several requests, or raise QUEUE_LIMIT, half of which this is.",
            )
        more, of_many = max(0, count - held), count if count > 1 else 0
        with self._lock:
            is_room = self._taken + more <= self.limit and (
                not of_many or self._of_many + of_many <= self._most_of_many
            )
            if not is_room:
                raise Overloaded(
                    f"Too many questions wait already ({self._taken}, at most {self.limit}).", "Ask again in a second."
                )
            self._taken += more
            self._of_many += of_many
        try:
            yield
        finally:
            with self._lock:
                self._taken -= more
                self._of_many -= of_many
