"""Which addresses may be removed; the store around them is in stages/test_clean.py."""

from __future__ import annotations

import pytest

from genai_lifecycle.store.maintenance.files_in_use import FilesInUse


@pytest.mark.parametrize(
    ("address", "may_go"),
    [
        ("s3://bucket/a/runs/1", True),
        ("s3://bucket/a/runs/1/", True),
        ("s3://bucket/a/runs/2", False),  # in use
        ("s3://bucket/a/runs/2/artifacts", False),  # a part of what is
        ("s3://bucket/a/runs/22", True),  # only begins like it
        ("s3://bucket/a/models", False),  # has something of it
        ("s3://bucket/a", False),  # the root itself
        ("s3://bucket/ab/runs/1", False),  # beside the root
        ("s3://other/a/runs/1", False),
        ("/a/runs/1", False),
    ],
)
def test_below_the_root_and_shared_with_nothing(address, may_go):
    files = FilesInUse("s3://bucket/a/", ["s3://bucket/a/runs/2", "s3://bucket/a/models/m/artifacts/", ""])
    assert files.may_remove(address) == may_go


def test_folders_are_compared_where_they_really_are(tmp_path):
    (tmp_path / "real" / "runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files = FilesInUse(str(tmp_path / "link"), [(tmp_path / "link" / "runs" / "a b").as_uri()])
    assert files.may_remove(str(tmp_path / "real" / "runs" / "1"))
    assert not files.may_remove(str(tmp_path / "real" / "runs" / "a b"))
    assert not files.may_remove(str(tmp_path / "link" / ".." / "elsewhere"))


def test_where_a_server_keeps_the_files_only_sharing_counts():
    files = FilesInUse(None, ["mlflow-artifacts:/1/a/artifacts"])
    assert files.may_remove("mlflow-artifacts:/1/b/artifacts")
    assert not files.may_remove("mlflow-artifacts:/1/a/artifacts/model")
