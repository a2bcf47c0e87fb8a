"""Does the store work? Tried with one small object below the prefix, before a run starts."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.s3_address import S3Root
from genai_lifecycle.store.s3.problems import explained, other_region, where
from genai_lifecycle.store.s3.session import DAMAGED, DAMAGED_HINT, connect, new_client, prepare

log = logging.getLogger(__name__)

PATIENCE_S, LEAST_PATIENCE_S = 4.5, 2.0  # for everything together; for the store alone where this machine is slow
SETTINGS_HINT = "Check --s3-endpoint-url and the AWS_ variables."
_QUICK = {"connect_timeout": 2, "read_timeout": 2, "retries": {"total_max_attempts": 2, "mode": "standard"}}
_CONTENT = b"Written, read and deleted by the check before a run. It can be deleted.\n"
DEFAULT_REGION = "us-east-1"  # the one that a new bucket must not name
_MAY_NOT = {"AccessDenied", "403", "AllAccessDisabled", "TooManyBuckets", "MethodNotAllowed", "InvalidAccessPoint"}


def open_root(
    root: S3Root, endpoint_url: str | None, access_key: str | None, secret_key: str | None, *, writes: bool
) -> None:
    """Point MLflow's S3 client at the store, then `check` it.

    Args:
        endpoint_url, access_key, secret_key: None = what the usual AWS places say.
    """
    from botocore.exceptions import BotoCoreError

    prepare(endpoint_url)
    try:
        connect(access_key, secret_key)
    except BotoCoreError as exc:  # a profile that does not exist
        raise explained(exc, root) from exc
    check(root, writes=writes)


def check(root: S3Root, *, writes: bool) -> None:
    """Try the store; a bucket that is missing is made when the run will write, if the keys may.

    Args:
        writes: write, read and delete an object below the prefix; False = list what is below it.

    Raises:
        StorageFailed: the store does not work, with the reason; after 4.5 s at the latest.
    """
    from botocore.exceptions import BotoCoreError

    started = time.monotonic()
    try:
        client = new_client(**_QUICK)
    except (BotoCoreError, ValueError) as exc:  # a profile or an address that makes no sense
        raise explained(exc, root) or StorageFailed(f"The S3 store cannot be used: {exc}.", hint=SETTINGS_HINT) from exc
    left_s = max(LEAST_PATIENCE_S, started + PATIENCE_S - time.monotonic())
    _within(left_s, lambda: _try(client, root, writes))


def diagnosed(uri: str, said: str) -> StorageFailed | None:
    """Why the files at an address in S3 were not had, when all that is known is what MLflow `said` of them."""
    if DAMAGED in said:
        return StorageFailed(next(line for line in said.splitlines() if DAMAGED in line), hint=DAMAGED_HINT)
    try:
        check(S3Root.parse(uri), writes=False)
    except (ValueError, StorageFailed) as exc:
        return exc if isinstance(exc, StorageFailed) else None
    return None


def _try(client, root: S3Root, writes: bool) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        if writes:
            _write_read_delete(client, root)
        else:
            client.list_objects_v2(Bucket=root.bucket, Prefix=root.key(""), MaxKeys=1)
    except (BotoCoreError, ClientError) as exc:
        raise explained(exc, root) from exc
    except RecursionError as exc:  # botocore looks for the right region, and is sent on again, without end
        raise StorageFailed(
            f"What answers {where()} sends every request on to another address.",
            hint="Give that address in --s3-endpoint-url; as a rule it is https:// in place of http://.",
        ) from exc


def _write_read_delete(client, root: S3Root) -> None:
    place = {"Bucket": root.bucket, "Key": root.key(f".lifecycle-check-{uuid.uuid4().hex}")}
    _put(client, root, place)
    try:
        content = client.get_object(**place)["Body"].read()
    finally:
        client.delete_object(**place)
    if content != _CONTENT:
        raise StorageFailed(
            f"The S3 store {where()} does not give back what was written to {root}.",
            hint="If it takes boto3's checksum trailers for content: AWS_REQUEST_CHECKSUM_CALCULATION=when_required.",
        )


def _put(client, root: S3Root, place: dict[str, str]) -> None:
    try:
        client.put_object(**place, Body=_CONTENT)
    except client.exceptions.NoSuchBucket:
        _make_bucket(client, root)
        client.put_object(**place, Body=_CONTENT)


def _make_bucket(client, root: S3Root) -> None:
    from botocore.exceptions import ClientError

    region = client.meta.region_name
    placed = {} if region in (None, DEFAULT_REGION, "aws-global") else {"LocationConstraint": region}
    try:
        client.create_bucket(Bucket=root.bucket, **({"CreateBucketConfiguration": placed} if placed else {}))
    except client.exceptions.BucketAlreadyOwnedByYou:  # another run was faster
        return
    except ClientError as exc:
        code = exc.response["Error"]["Code"]
        if code in ("InvalidLocationConstraint", "IllegalLocationConstraintException"):
            raise other_region(region, exc) from exc
        if code in _MAY_NOT:
            raise StorageFailed(
                f"The bucket {root.bucket!r} does not exist {where()}, and these keys may not create it.",
                hint="Create it, ask for the right s3:CreateBucket, or correct --data-dir.",
            ) from exc
        raise
    log.info("The bucket %s was created.", root.bucket)


def _within(patience_s: float, work: Callable[[], None]) -> None:
    """Run `work` in a thread that is left behind when it takes too long: a look-up of a name cannot be interrupted."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - the caller's thread raises it
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        raise StorageFailed(
            f"The S3 store {where()} did not answer within {patience_s:.1f} s.",
            hint="Is it overloaded, or is there a firewall in between? Correct --s3-endpoint-url if that is wrong.",
        )
    if raised:
        raise raised[0]
