"""Addresses of an artifact root: what is accepted in S3, how they are written, and names that are made of them."""

from __future__ import annotations

import pytest

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.runtime.s3_address import S3Root, is_s3, name_in


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


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("s3://bucket", "life-s3-bucket-"),
        ("s3://my.bucket-1/team/a", "life-s3-my-bucket-1-team-a-"),
        ("/data/art work", "life-art-work-"),
        ("/", "life-"),
        ("/данные", "life-"),
        (f"s3://bucket/{'x' * 300}", f"life-s3-bucket-{'x' * 30}-"),
    ],
)
def test_a_name_for_each_root(root, shown):
    name = name_in(root, "life")
    assert name.startswith(shown) and len(name) == len(shown) + 6
    assert name == name_in(root, "life")
    assert E2EConfig(experiment_name=name_in(root, "n" * 128)), "a name that may be typed"


def test_no_two_roots_have_the_same():
    roots = ["s3://a/b-c", "s3://a-b/c", "/a/b", "/c/b", "/s3/b", "s3://b/x/" + "y" * 99, "s3://b/x/" + "y" * 98]
    names = {name_in(root, name) for root in roots for name in ("life", "n" * 127, "n" * 128)}
    assert len(names) == 3 * len(roots)
