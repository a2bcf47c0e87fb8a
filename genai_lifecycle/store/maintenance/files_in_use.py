"""Whose files may be removed: what is below our own artifact root, and shares no folder with anything that stays."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable

from genai_lifecycle.store.maintenance.inventory import local_folder


class FilesInUse:
    """The artifact addresses of everything that stays.

    Args:
        root: below which files are ours; None where a server keeps them, which then decides.
        addresses: in any form that MLflow keeps; an empty one is of nothing.
    """

    def __init__(self, root: str | None, addresses: Iterable[str]):
        self._root = _plain(root) if root else None
        self._addresses = sorted({_plain(address) for address in addresses if address})
        self._known = set(self._addresses)

    def may_remove(self, address: str) -> bool:
        place = _plain(address)
        is_ours = self._root is None or place.startswith(f"{self._root}/")
        return is_ours and not self._is_in_one(place) and not self._has_one(place)

    def _is_in_one(self, place: str) -> bool:
        parts = place.split("/")
        return any("/".join(parts[:length]) in self._known for length in range(1, len(parts) + 1))

    def _has_one(self, place: str) -> bool:
        first = bisect_left(self._addresses, f"{place}/")
        return first < len(self._addresses) and self._addresses[first].startswith(f"{place}/")


def _plain(address: str) -> str:
    """A folder without links, dots and scheme; any other address without the slash at its end."""
    folder = local_folder(address)
    return os.path.realpath(folder) if folder is not None else address.rstrip("/")
