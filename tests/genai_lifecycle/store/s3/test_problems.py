"""Errors of the S3 client in our words, also where others have wrapped them. Real ones are in `test_preflight.py`."""

from __future__ import annotations

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.s3_address import S3Root
from genai_lifecycle.store.s3.problems import explained

ROOT = S3Root("bucket", "team")


def refusal(code: str, operation: str, message: str = "", **more) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message} | more}, operation)


def test_an_upload_that_boto3_has_wrapped():
    with pytest.raises(S3UploadFailedError) as caught:
        try:
            raise refusal("AccessDenied", "UploadPart")
        except ClientError as exc:
            raise S3UploadFailedError("Failed to upload") from exc
    problem = explained(caught.value, ROOT)
    assert str(problem) == "The keys may not write in s3://bucket/team.\n  -> Grant them s3:PutObject there."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal("PermanentRedirect", "PutObject", Region="eu-west-1"), "is in the region eu-west-1."),
        (refusal("AuthorizationHeaderMalformed", "PutObject", "the region 'a' is wrong; expecting 'eu-west-1'"),
         "is in the region eu-west-1."),
        (refusal("301", "HeadBucket"), "is in another region."),
    ],
)  # fmt: skip
def test_the_right_region_is_named_where_the_store_names_it(error, said):
    assert said in str(explained(error, ROOT))


def test_our_own_error_comes_through_and_others_are_not_ours():
    ours = StorageFailed("It is damaged.")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = ours
    assert explained(wrapped) is ours
    assert explained(ValueError("of something else")) is None
