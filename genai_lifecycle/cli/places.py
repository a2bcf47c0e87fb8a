"""The folders that a mode writes to, tried before it begins: none is found closed after all the computing.

The artifact root and the database are tried when the store is opened (`store/tracking_store.py`).
"""

from __future__ import annotations

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.machine import why_not_writable
from genai_lifecycle.settings import Settings, settings_of


def require_writable(settings: Settings, name: str) -> None:
    """Raises StorageFailed where nothing can be written to the folder, or beside the file, that a setting names."""
    place = getattr(settings, name)
    if place is None:
        return
    item = next(item for item in settings_of(type(settings)) if item.name == name)
    folder = place.parent if item.metavar == "FILE" else place
    if why := why_not_writable(folder):
        raise StorageFailed(
            f"Nothing can be written to {folder}: {why}.",
            hint=f"Make it a folder that you may write to, or name another one with {item.flag or item.env}.",
        )
