"""The boto3 session behind MLflow's artifact repository: its settings, and transfers that are checked and seen.

MLflow makes its client with `boto3.client`, so what is set on the default session holds for every file that
MLflow moves in this process. Processes that we start (the probe of mode `test`, servers) get the variables.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime import progress

ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
# boto3's own patience: a connection within 3.1 s, five attempts with growing, random pauses of up to 20 s.
_PATIENCE = {"AWS_DEFAULTS_MODE": "standard", "AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "5"}
# Since 2025 boto3 adds CRC headers, and over TLS trailers, that stores other than Amazon's may refuse or, worse, keep
# as part of the file. Ours are checked by sha256.
CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
SHA256 = "sha256"  # in the metadata of an object
PART_BYTES = 16 << 20  # of a multipart transfer; smaller files go in one piece
PARTS_AT_ONCE = 8
SHOWN_FROM_BYTES = 64 << 20  # smaller files are there before a bar would be
_MEGABYTE = 1_000_000


def prepare(endpoint_url: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what S3 clients read, here and in processes that we start. A variable that the user has set stays.

    Args:
        endpoint_url: of a store that is not Amazon's; None = what the environment says.
    """
    if endpoint_url:
        environment[ENDPOINT] = endpoint_url
    for name, value in (_PATIENCE | (CHECKSUMS if is_foreign(environment) else {})).items():
        environment.setdefault(name, value)


def endpoint_url(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Where requests go; None = Amazon's own address of the region."""
    return next((environment[name] for name in (ENDPOINT, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
                 if environment.get(name)), None)  # fmt: skip


def is_foreign(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether the store is not Amazon's own."""
    url = endpoint_url(environment)
    return bool(url) and ".amazonaws.com" not in url


def connect(access_key: str | None = None, secret_key: str | None = None) -> None:
    """Make the default session that MLflow's S3 client comes from.

    Args:
        access_key, secret_key: for this process only; None = the usual AWS places.
    """
    import boto3

    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key} if access_key else {}
    boto3.setup_default_session(**keys)
    events = boto3.DEFAULT_SESSION.events
    events.register("creating-client-class.s3", _check_transfers)
    events.register("before-call.s3.DeleteObjects", _add_content_md5)


def new_client(**settings: Any):
    """An S3 client as MLflow makes its own, with these values of botocore's Config on top."""
    import boto3
    from botocore.config import Config

    style = os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")
    ignore_tls = os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1")
    return boto3.client(
        "s3",
        endpoint_url=os.environ.get(ENDPOINT) or None,
        verify=False if ignore_tls else None,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}, **settings),
    )


# --- transfers ------------------------------------------------------------------------------------


def _check_transfers(class_attributes: dict[str, Any], **_: Any) -> None:
    """Give the client class an upload that stores the file's sha256 and a download that compares it."""
    upload, download = class_attributes["upload_file"], class_attributes["download_file"]

    def upload_file(self, Filename, Bucket, Key, ExtraArgs=None, Callback=None, Config=None):
        extra = dict(ExtraArgs or {})
        extra["Metadata"] = {**extra.get("Metadata", {}), SHA256: _sha256(Filename)}
        with _shown("Uploading", Filename, os.path.getsize(Filename), Callback) as moved:
            upload(self, Filename, Bucket, Key, ExtraArgs=extra, Callback=moved, Config=Config or _transfer_config())

    def download_file(self, Bucket, Key, Filename, ExtraArgs=None, Callback=None, Config=None):
        found = self.head_object(Bucket=Bucket, Key=Key, **(ExtraArgs or {}))
        with _shown("Downloading", Filename, found["ContentLength"], Callback) as moved:
            download(self, Bucket, Key, Filename, ExtraArgs=ExtraArgs, Callback=moved,
                     Config=Config or _transfer_config())  # fmt: skip
        _require_sha256(Path(Filename), found["Metadata"].get(SHA256), f"s3://{Bucket}/{Key}")

    class_attributes |= {"upload_file": upload_file, "download_file": download_file}


def _transfer_config():
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE)


def _require_sha256(file: Path, expected: str | None, uri: str) -> None:
    """Raises StorageFailed, and leaves no file, when it is not what was uploaded. Other tools store no sha256."""
    if expected is None or _sha256(file) == expected:
        return
    file.unlink()
    raise StorageFailed(f"{uri} {DAMAGED}: its sha256 is not the one that it was stored with.", hint=DAMAGED_HINT)


DAMAGED = "is damaged"
DAMAGED_HINT = "Run the same command again; if it stays so, deploy again: the store has lost the file."


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _shown(
    what: str, file: str, size_bytes: int, callback: Callable[[int], None] | None
) -> Iterator[Callable[[int], None] | None]:
    """What boto3 is to call with the bytes just moved; it calls from several threads."""
    if callback or size_bytes < SHOWN_FROM_BYTES:
        yield callback
        return
    lock, moved, told = threading.Lock(), 0, 0
    with progress.steps(f"{what} {Path(file).name}, MB", size_bytes // _MEGABYTE) as advance:

        def count(added: int) -> None:
            nonlocal moved, told
            with lock:
                moved += added
                if moved // _MEGABYTE > told:
                    advance(moved // _MEGABYTE - told)
                    told = moved // _MEGABYTE

        yield count


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    """S3 once required it for deleting many objects; boto3 left it out in 2025, and stores still insist."""
    params["headers"].setdefault("Content-MD5", base64.b64encode(hashlib.md5(params["body"]).digest()).decode())
