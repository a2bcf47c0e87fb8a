"""An OSError of a write, as one of our errors."""

from __future__ import annotations

import errno

from genai_lifecycle.errors import StorageFailed

NOT_WRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG}
SPACE_HINT = "Free some space or make the folder writable, or choose another one with --data-dir."


def storage_failed(cause: OSError, setting: str = "--data-dir") -> StorageFailed:
    """For a write that failed for lack of space or permission; names the path when it is known.

    Args:
        setting: what names the folder.
    """
    where = f" {cause.filename}" if cause.filename else ""
    return StorageFailed(f"Cannot write{where}: {cause.strerror}.", hint=SPACE_HINT.replace("--data-dir", setting))
