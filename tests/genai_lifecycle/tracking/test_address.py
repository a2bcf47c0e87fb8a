"""Addresses as they are shown."""

from __future__ import annotations

import pytest

from genai_lifecycle.tracking.address import without_password


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
        ("sqlite:////a/b", "sqlite:////a/b"),
    ],
)
def test_passwords_are_stars_and_the_rest_stays(uri, shown):
    assert without_password(uri) == shown
