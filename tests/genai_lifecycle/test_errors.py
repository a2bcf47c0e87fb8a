"""Errors: every kind has its own exit code, and shows what happened before what to do."""

from __future__ import annotations

from genai_lifecycle import errors


def kinds() -> list[type[errors.LifecycleError]]:
    return errors.LifecycleError.__subclasses__()


def test_every_kind_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in kinds()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 130} & set(codes)


def test_every_kind_stands_in_the_list_of_exit_codes():
    for kind in kinds():
        assert any(
            kind.__name__ in line and f"exit {kind.exit_code} " in f"{line} " for line in errors.__doc__.splitlines()
        ), kind


def test_an_error_shows_what_happened_and_what_to_do():
    assert str(errors.ConfigError("It broke.", hint="Mend it.")) == "It broke.\n  -> Mend it."
    assert str(errors.ConfigError("It broke.")) == "It broke."
