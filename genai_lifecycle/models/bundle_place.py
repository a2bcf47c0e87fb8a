"""Where a bundle may be written: never over our data or over the model that was given."""

from __future__ import annotations

from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.models import bundle
from genai_lifecycle.runtime.addresses import SQLITE, sqlite_file
from genai_lifecycle.runtime.s3_address import is_s3


def require_bundle_place(config: E2EConfig, folder: Path, *, overwrite: bool) -> None:
    """Raises BundleError unless a bundle may be written to `folder`."""
    bundle.check_target(folder, overwrite=overwrite, keep=kept(config))


def kept(config: E2EConfig) -> list[Path]:
    """What no bundle takes the place of: where our data is, and the model that was given."""
    places = [config.staging_dir, config.log_dir]
    if not is_s3(config.data_dir):
        places.append(Path(config.data_dir))
    if config.database_uri.startswith(SQLITE):
        places.append(sqlite_file(config.database_uri))
    return [*places, Path(config.model)] if config.model else places
