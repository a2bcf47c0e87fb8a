"""Addresses of databases and servers as they may be shown: without the password in them."""

from __future__ import annotations

import re

_SECRET_IN_QUERY = re.compile(r"([?&]\w*password=)[^&#]*", re.IGNORECASE)


def without_password(uri: str) -> str:
    """`uri` with the password of its user part and of its query, if any, as stars."""
    uri = _SECRET_IN_QUERY.sub(r"\1***", uri)
    head, separator, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    user, at, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{head}{separator}{name}:***{at}{host}" if colon else uri
