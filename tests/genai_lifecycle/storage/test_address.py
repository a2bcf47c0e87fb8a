"""Addresses of an artifact root in S3: what is accepted, and how they are written."""

from __future__ import annotations

import pytest

from genai_lifecycle.storage.address import S3Root, is_s3


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix", "written"),
    [
        ("s3://bucket", "bucket", "", "s3://bucket"),
        ("s3://bucket/", "bucket", "", "s3://bucket"),
        ("s3://my.bucket-1/team/a/", "my.bucket-1", "team/a", "s3://my.bucket-1/team/a"),
        ("s3://bucket/Модель_1.0", "bucket", "Модель_1.0", "s3://bucket/Модель_1.0"),
    ],
)
def test_what_is_an_address(uri, bucket, prefix, written):
    root = S3Root.parse(uri)
    assert (root.bucket, root.prefix, str(root)) == (bucket, prefix, written)
    assert root.key("x") == (f"{prefix}/x" if prefix else "x")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://", "s3:///prefix", "s3://UPPER/x", "s3://ab", "s3://-bucket/x", "s3://under_score/x", "s3://key:word@bucket/x",
        "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/a/./b", "s3://bucket/a b", "s3://bucket/a?b", "s3://bucket/a#b",
        "s3://bucket/a%2Fb", "/folder", "http://bucket/x", f"s3://{'a' * 64}/x",
    ],
)  # fmt: skip
def test_what_is_none(uri):
    with pytest.raises(ValueError) as caught:
        S3Root.parse(uri)
    assert "word" not in str(caught.value)


def test_a_folder_is_not_in_s3():
    assert is_s3("s3://bucket") and not is_s3("/folder") and not is_s3("s3")
