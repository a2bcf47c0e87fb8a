"""Addresses: made absolute, taken apart, and as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_lifecycle.runtime.addresses import absolute_address, sqlite_file, without_credentials, without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?Password=se@cret&sslmode=require", "postgresql://host/db?Password=***&sslmode=require"),
        ("postgresql://host/db?sslpassword=secret", "postgresql://host/db?sslpassword=***"),
        ("me:secret@host/db", "me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("http://127.0.0.1:5050", "http://127.0.0.1:5050"),
        ("http://me:secret@mlflow:5000/base", "http://me:***@mlflow:5000/base"),
        ("https://me:se%40cret@mlflow", "https://me:***@mlflow"),
        ("sqlite:////a/b", "sqlite:////a/b"),
    ],
)
def test_passwords_are_stars_and_the_rest_stays(uri, shown):
    assert without_password(uri) == shown


@pytest.mark.parametrize(
    ("uri", "address", "user", "password"),
    [
        ("http://me:secret@mlflow:5000/base?x=1", "http://mlflow:5000/base?x=1", "me", "secret"),
        ("https://me%40example.com:p%3Aw%2F@[::1]:5000", "https://[::1]:5000", "me@example.com", "p:w/"),
    ],
)
def test_user_and_password_are_taken_out_of_a_servers_address(uri, address, user, password):
    login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    assert without_credentials(uri) == (address, login)


@pytest.mark.parametrize(
    "uri", ["http://mlflow:5000", "http://me@mlflow", "sqlite:////a/b@c:d", "postgresql://me:p@h/d"]
)
def test_an_address_without_them_stays(uri):
    assert without_credentials(uri) == (uri, {})


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///lab.db", "sqlite:///{here}/lab.db"),
        ("sqlite:///./a/../lab.db", "sqlite:///{here}/lab.db"),
        ("sqlite:///lab.db?timeout=30&x=a/b", "sqlite:///{here}/lab.db?timeout=30&x=a/b"),
        ("sqlite:////abs/lab.db", "sqlite:////abs/lab.db"),
        ("sqlite:////abs/lab.db?timeout=30", "sqlite:////abs/lab.db?timeout=30"),
        ("http://mlflow:5000/a", "http://mlflow:5000/a"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
    ],
)
def test_a_sqlite_address_is_made_absolute_and_keeps_its_query(uri, absolute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = absolute.format(here=tmp_path)
    assert absolute_address(uri) == absolute
    assert absolute_address(absolute) == absolute


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true",
                                 "sqlite://lab.db", "sqlite:///?timeout=3"])  # fmt: skip
def test_a_database_without_a_file_is_refused(uri):
    with pytest.raises(ValueError, match="names no file"):
        absolute_address(uri)


def test_the_file_of_an_address():
    assert sqlite_file("sqlite:////a/b.db?timeout=3") == sqlite_file("sqlite:////a/b.db") == Path("/a/b.db")
