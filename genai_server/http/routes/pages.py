"""Pages for people: the question page at `/`, and Swagger at `/docs` with its files from here, so both work offline.

Each carries a Content-Security-Policy that lets the browser run nothing but its own scripts and ask nobody but us.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

STATIC = Path(__file__).resolve().parents[2] / "static"
router = APIRouter(include_in_schema=False)

_NOTHING_ELSE = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Only what a page sets as text reaches it: the browser refuses to read any string as HTML.
_TEXT_ONLY = "require-trusted-types-for 'script'; trusted-types 'none'"


def _inline(page: str, tag: str) -> str:
    """The page's own inline script or style, named by its hash."""
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    hashes = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{value}'" for value in hashes)


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": f"{_NOTHING_ELSE}; {policy}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


_QUESTION_PAGE = (STATIC / "index.html").read_text("utf-8")
_QUESTION_HEADERS = _headers(
    f"script-src {_inline(_QUESTION_PAGE, 'script')}; style-src {_inline(_QUESTION_PAGE, 'style')}; {_TEXT_ONLY}"
)
_SWAGGER = (STATIC / "swagger" / "docs.html").read_text("utf-8")
_SWAGGER_HEADERS = _headers("script-src 'self'; style-src 'self'")


@router.get("/", response_class=HTMLResponse)
async def question_page() -> HTMLResponse:
    """Ask a question and watch the answer come."""
    return HTMLResponse(_QUESTION_PAGE, headers=_QUESTION_HEADERS)


@router.get("/docs", response_class=HTMLResponse)
async def swagger() -> HTMLResponse:
    """The API, to read and to try."""
    return HTMLResponse(_SWAGGER, headers=_SWAGGER_HEADERS)
