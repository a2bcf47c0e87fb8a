"""Prompts as a command line names them, looked up in a real registry."""

from __future__ import annotations

import pytest

from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.prompts.references import look_up
from genai_lifecycle.store import prompt_registry as registry


@pytest.fixture
def two_versions(store) -> None:
    for text in ("One {{question}}", "Two {{question}}"):
        registry.register("qa", text, "x", {})
    registry.set_alias("qa", "production", 1)


@pytest.mark.parametrize(
    ("text", "version"),
    [("qa@production", 1), ("qa/1", 1), ("qa/2", 2), ("qa", 2), ("qa@latest", 2), ("prompts:/qa/1", 1)],
)
def test_every_form(two_versions, text, version):
    found = look_up(text)
    assert (found.name, found.version) == ("qa", version)
    assert found.template.startswith(("One", "Two")[version - 1])


@pytest.mark.parametrize("text", ["", "qa@", "qa/0", "qa/x", "q a", "qa/1@production"])
def test_another_form_is_refused(store, text):
    with pytest.raises(ConfigError, match="not named as one"):
        look_up(text)


def test_what_is_not_there(two_versions):
    for text, what in (("none", "no prompt 'none'"), ("qa/3", "no version 3"), ("qa@staging", "has no 'staging'")):
        with pytest.raises(NotFound, match=what) as error:
            look_up(text)
        assert error.value.hint
