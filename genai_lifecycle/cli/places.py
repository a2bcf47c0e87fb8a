"""The folders that a mode writes to, tried before it begins: none is found closed after all the computing.

The artifact root and the database are tried when the store is opened (`store/tracking_store.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.models.bundle_place import require_bundle_place
from genai_lifecycle.runtime.machine import why_not_writable

# Modes with scratch files, answers of an interrupted run, or a result for programs.
USE_STAGING = ("experiment", "deploy", "test", "export", "verify", "evaluate", "import-feedback", "monitor", "all")
WRITE_BUNDLES = ("export", "all")


def require_writable(config: E2EConfig, mode: str) -> None:
    """Raises StorageFailed for a folder that `mode` cannot write to, BundleError for the bundle's place."""
    for folder, setting in _folders(config, mode):
        if why := why_not_writable(folder):
            raise StorageFailed(
                f"Nothing can be written to {folder}: {why}.",
                hint=f"Make it a folder that you may write to, or name another one with {setting}.",
            )
    if mode in WRITE_BUNDLES:
        require_bundle_place(config)


def _folders(config: E2EConfig, mode: str) -> Iterator[tuple[Path, str]]:
    """Each with the setting that names it."""
    if mode in USE_STAGING:
        yield config.staging_dir, "LIFECYCLE_STAGING_DIR"
    if mode == "ui" or (mode == "serve" and config.start):
        yield config.log_dir, "LIFECYCLE_LOG_DIR"
    if mode == "monitor":
        yield config.report.parent, "--report"
    if mode == "import-feedback" and config.to_cases:
        yield config.to_cases.parent, "--to-cases"
