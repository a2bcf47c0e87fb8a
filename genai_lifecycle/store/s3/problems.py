"""What an error of the S3 client means: one plain sentence, and what to do next. Never with a key in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.s3_address import S3Root
from genai_lifecycle.store.s3.session import endpoint_url

_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_ENDPOINT_HINT = "Start it, or correct --s3-endpoint-url (MLFLOW_S3_ENDPOINT_URL)."
_REGION_CODES = {
    "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException",
    "InvalidLocationConstraint", "InvalidRegion", "301", "307",
}  # fmt: skip
_DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}
_NO_KEY = (
    "The S3 store {where} does not know the access key.",
    "Check AWS_ACCESS_KEY_ID, or the profile that AWS_PROFILE names.",
)
_NO_TOKEN = ("The session token for S3 is not valid any more.", "Log in again, or set a new AWS_SESSION_TOKEN.")
_FULL = ("The S3 store {where} is full.", "Free some space there.")
_BUSY = ("The S3 store {where} is not ready ({code}).", "Wait a little and run the same command again.")
_TAKEN = ("The bucket {bucket} belongs to somebody else.", "Choose another name in --data-dir.")
# S3's error code -> our sentence and hint. Codes that begin with X are MinIO's; HTTP's stand where no code is sent.
_SENTENCES = {
    "InvalidAccessKeyId": _NO_KEY,
    "InvalidClientTokenId": _NO_KEY,
    "SignatureDoesNotMatch": (
        "The S3 store {where} does not accept the secret key.",
        "Check AWS_SECRET_ACCESS_KEY; some stores say so of an unknown AWS_ACCESS_KEY_ID too.",
    ),
    "NoSuchBucket": (
        "The bucket {bucket} does not exist {where}.",
        "Correct --data-dir; the modes that write create a bucket that is missing.",
    ),
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), _NO_TOKEN),
    **dict.fromkeys(("BucketAlreadyExists", "OperationAborted"), _TAKEN),
    **dict.fromkeys(
        ("InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "507"), _FULL
    ),
    **dict.fromkeys(
        ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"), _BUSY
    ),
}
_RIGHTS = {
    "PutObject": ("write", "s3:PutObject"),
    "CreateMultipartUpload": ("write", "s3:PutObject"),
    "UploadPart": ("write", "s3:PutObject"),
    "CompleteMultipartUpload": ("write", "s3:PutObject"),
    "GetObject": ("read", "s3:GetObject"),
    "HeadObject": ("read", "s3:GetObject"),
    "DeleteObject": ("delete", "s3:DeleteObject"),
    "DeleteObjects": ("delete", "s3:DeleteObject"),
    "ListObjectsV2": ("list", "s3:ListBucket"),
}


def where() -> str:
    """`at http://host:port`, or whose store it is."""
    url = endpoint_url()
    return f"at {url}" if url else "of Amazon"


def explained(exc: BaseException, root: S3Root | None = None) -> StorageFailed | None:
    """Our error for one of boto3's or botocore's, or for one that was made of such a one; None for anything else."""
    if not sys.modules.get("botocore"):  # then it is no error of its
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    for cause in _causes(exc):
        if isinstance(cause, StorageFailed):
            return cause
        if isinstance(cause, ClientError):
            return _of_answer(cause, root)
        if isinstance(cause, BotoCoreError):
            return _of_client(cause)
    return None


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


# --- the store did not answer, or was not asked ---------------------------------------------------


def _of_client(exc: BaseException) -> StorageFailed:
    from botocore import exceptions

    if isinstance(exc, exceptions.SSLError):
        return _of_tls(exc)
    if isinstance(exc, exceptions.EndpointConnectionError):
        return _of_connection(exc)
    if isinstance(exc, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return StorageFailed(f"The S3 store {where()} does not answer in time.", hint=_ENDPOINT_HINT)
    if isinstance(exc, exceptions.HTTPClientError | exceptions.IncompleteReadError):
        return StorageFailed(f"The S3 store {where()} broke the connection off.", hint=_ENDPOINT_HINT)
    if isinstance(exc, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return StorageFailed(
            f"There are no keys for the S3 store {where()}.",
            hint=f"Set {_KEYS}, name a profile with AWS_PROFILE, or give the machine a role.",
        )
    if isinstance(exc, exceptions.ProfileNotFound):
        return StorageFailed("The profile that AWS_PROFILE names does not exist.", hint="See ~/.aws/config.")
    if isinstance(exc, exceptions.ResponseParserError):
        return _no_s3()
    return StorageFailed(f"The S3 store {where()} cannot be used: {exc}", hint="See --verbose for the whole message.")


def _of_connection(exc: BaseException) -> StorageFailed:
    reason = str(getattr(exc, "kwargs", {}).get("error", ""))
    if "Failed to resolve" in reason or "Name or service" in reason or "getaddrinfo" in reason:
        host = urlsplit(endpoint_url() or "").hostname
        return StorageFailed(
            f"The name {host} of the S3 store cannot be resolved." if host else "Amazon's S3 is not found by its name.",
            hint="Correct --s3-endpoint-url (MLFLOW_S3_ENDPOINT_URL); or this machine's DNS does not work.",
        )
    said = re.search(r"\[Errno -?\d+\] ([^'\")]+)", reason)
    return StorageFailed(
        f"No S3 store answers {where()}{f' ({said[1].lower()})' if said else ''}.", hint=_ENDPOINT_HINT
    )


def _of_tls(exc: BaseException) -> StorageFailed:
    reason = re.sub(r"\s*\(_ssl\.c:\d+\)", "", str(getattr(exc, "kwargs", {}).get("error") or exc))
    said = re.search(r"\[SSL: [A-Z0-9_]+\] (?:certificate verify failed: )?([^'\")]+)", reason)
    detail = said[1].strip() if said else "the handshake broke off"
    hint = "Name the authority's certificate with AWS_CA_BUNDLE=FILE."
    if re.search("WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER|UNEXPECTED_EOF", reason):
        hint = "It does not speak TLS there: use http:// in --s3-endpoint-url."
    elif "mismatch" in reason or "doesn't match" in reason:
        hint = "The certificate is for another name: use that one in --s3-endpoint-url."
    elif "expired" in reason:
        hint = "Renew the store's certificate, or set this machine's clock."
    return StorageFailed(f"The TLS connection to the S3 store {where()} failed: {detail}.", hint=hint)


# --- the store refused ----------------------------------------------------------------------------


def _of_answer(exc, root: S3Root | None) -> StorageFailed:
    code = exc.response["Error"].get("Code", "")
    if code == "RequestTimeTooSkewed":
        return _clock(exc)
    if code in _REGION_CODES:
        return other_region(None, exc)
    if code in _DENIED_CODES:
        return _denied(exc, root)
    if code in _SENTENCES:
        sentence, hint = _SENTENCES[code]
        return StorageFailed(sentence.format(where=where(), bucket=_bucket(exc, root), code=code), hint=hint)
    if (not code or code.isdigit()) and exc.operation_name in ("PutObject", "ListObjectsV2"):
        return _no_s3()
    said = exc.response["Error"].get("Message") or "without a reason"
    return StorageFailed(
        f"The S3 store {where()} refused {exc.operation_name} with {code}: {said}", hint="See --verbose for more."
    )


def _denied(exc, root: S3Root | None) -> StorageFailed:
    verb, right = _RIGHTS.get(exc.operation_name, ("do that", "that right"))
    return StorageFailed(f"The keys may not {verb} in {root or 'the bucket'}.", hint=f"Grant them {right} there.")


def other_region(asked: str | None, exc) -> StorageFailed:
    """The store or the bucket is in another region than the requests are signed for."""
    error, headers = exc.response["Error"], exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    expected = re.search(r"expecting '([\w-]+)'", error.get("Message", ""))
    right = error.get("Region") or headers.get("x-amz-bucket-region") or (expected[1] if expected else None)
    asked_for = f", not {asked}" if asked else ""
    return StorageFailed(
        f"The S3 store {where()} is in the region {right}{asked_for}."
        if right
        else f"The S3 store {where()} is in another region{f' than {asked}' if asked else ''}.",
        hint=f"Set AWS_DEFAULT_REGION (or the profile's region) to {right or 'its region; as a rule us-east-1'}.",
    )


def _clock(exc) -> StorageFailed:
    """The store's clock is in the Date header of its answer."""
    date = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    minutes = abs(datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() / 60 if date else 0
    by = f"{minutes:.0f} minutes" if minutes >= 1 else "more than S3 allows"
    return StorageFailed(
        f"The clocks of this machine and of the S3 store {where()} differ by {by}.",
        hint="Set the clock, for example with: timedatectl set-ntp true",
    )


def _no_s3() -> StorageFailed:
    return StorageFailed(
        f"What answers {where()} is not an S3 store.",
        hint="Correct --s3-endpoint-url: MinIO's S3 port is 9000, its console's is another one.",
    )


def _bucket(exc, root: S3Root | None) -> str:
    return repr(root.bucket if root else exc.response["Error"].get("BucketName", "of the artifacts"))
