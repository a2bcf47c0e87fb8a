"""The address of an artifact root: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3's rule; MinIO and Swift have the same
_SEGMENT = re.compile(r"[\w.=+@-]+")  # of the prefix: what MLflow's addresses carry unchanged


@dataclass(frozen=True)
class S3Root:
    """Bucket and prefix; everything that we write is below them."""

    bucket: str
    prefix: str  # without slashes at its ends; may be empty

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The key of an object directly below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    @classmethod
    def parse(cls, uri: str) -> S3Root:
        """Raises ValueError, with what is wrong and without the address itself: there may be a key in it."""
        bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise ValueError("a bucket's name has 3 to 63 small letters, digits, '.' and '-'")
        segments = prefix.split("/") if prefix else []
        if any(not _SEGMENT.fullmatch(segment) or segment in (".", "..") for segment in segments):
            raise ValueError("a prefix is made of letters, digits and . _ - = + @, parted by single slashes")
        return cls(bucket, prefix)


def is_s3(uri: str) -> bool:
    return uri.startswith(SCHEME)


def name_in(root: str, name: str) -> str:
    """`name` with the artifact root in it, in letters, digits and dashes: `langchain-e2e-s3-bucket-prefix-1a2b3c`.

    The same for the same root, and for no other one.

    Args:
        root: an address in S3, or a folder without links and dots, whose last part is what is shown.
    """
    shown = root.replace("://", "-") if is_s3(root) else root.rpartition("/")[2]
    words = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[:40].strip("-")
    digest = hashlib.sha256(f"{root}\n{name}".encode()).hexdigest()[:6]
    return "-".join(part for part in (name[:72], words, digest) if part)
