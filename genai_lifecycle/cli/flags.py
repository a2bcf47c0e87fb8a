"""The flags of one mode at a time, and what --help says of them: all of it made from the settings' declarations.

What a mode does is in main.py, how a setting is declared in `settings.py`.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from genai_lifecycle.config import DATA_ROOT, EVERY_MODE, PROGRAM, E2EConfig
from genai_lifecycle.errors import ConfigError
from genai_lifecycle.settings import Setting, Settings, settings_of

_HELP = ("-h", "--help")
_FORCE = (
    "--overwrite replaces a changed bundle or a case file, --override-gate overrides gate.yaml, "
    "--even-in-production deletes a prompt that is in use, --allow-missing relocates in spite of lost models."
)
_PRECEDENCE = "Flags beat environment variables, environment variables beat defaults. Ctrl-C is safe at any moment."


@dataclass(frozen=True)
class Mode:
    """What `--mode NAME` runs, and the settings that it knows."""

    run: Callable[..., None]  # (config, one instance of each of its own settings classes)
    what: str  # its line of --help
    settings: tuple[type[Settings], ...] = ()  # its own
    shared: tuple[str, ...] = ()  # the groups of E2EConfig that it uses, beside those of every mode

    @property
    def groups(self) -> tuple[str, ...]:
        return (*self.shared, *EVERY_MODE)

    @property
    def own(self) -> list[Setting]:
        return [*(item for cls in self.settings for item in settings_of(cls)), *_in_groups(self.shared)]

    @property
    def flags(self) -> list[str]:
        return [item.flag for item in (*self.own, *_in_groups(EVERY_MODE)) if item.flag.startswith("-")]


def _in_groups(groups: Sequence[str]) -> list[Setting]:
    return [item for item in settings_of(E2EConfig) if item.group in groups]


class _Parser(argparse.ArgumentParser):
    """Wrong usage is a ConfigError like any other wrong setting. A flag that is not given is absent from the result."""

    def __init__(self, **more: Any):
        super().__init__(
            prog=PROGRAM.removeprefix("python "), argument_default=argparse.SUPPRESS, allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32), **more,
        )  # fmt: skip
        self.add_argument("--mode", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.", hint=f"{PROGRAM} --help shows every mode.")


def parse(modes: Mapping[str, Mode], arguments: Sequence[str] | None = None) -> tuple[str, dict[str, Any]]:
    """(the mode, its flags' values by the settings' names). Ends the process after --help."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = vars(_Parser(add_help=False).parse_known_args(words)[0]).get("mode")
    if name is None:
        _without_mode(modes, words)
    if name not in modes:
        hint = f"{_close(name, list(modes))}{PROGRAM} --help shows every mode."
        raise ConfigError(f"There is no mode {name!r}.", hint=hint)
    values, unknown = _parser_of(name, modes[name]).parse_known_args(words)
    if unknown:
        _refuse(unknown, name, modes)
    return name, vars(values)


# --- what is not known ----------------------------------------------------------------------------


def _without_mode(modes: Mapping[str, Mode], words: Sequence[str]) -> NoReturn:
    if any(word in _HELP for word in words):
        sys.stdout.write(overview(modes))
        raise SystemExit(0)
    raise ConfigError("A mode is needed.", hint=f"Begin with --mode all. {PROGRAM} --help shows every mode.")


def _refuse(unknown: Sequence[str], name: str, modes: Mapping[str, Mode]) -> NoReturn:
    """The words behind a flag are in no message: one may be a key."""
    flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    hint = f"{PROGRAM} --mode {name} --help shows its flags."
    if flag is None:
        raise ConfigError(f"--mode {name} takes no {unknown[0]!r}.", hint=hint)
    if flag == "--force":
        raise ConfigError("There is no --force any more: it meant different things in different modes.", hint=_FORCE)
    if owners := [other for other, mode in modes.items() if flag in mode.flags]:
        raise ConfigError(f"{flag} is a flag of {_listed(owners)}, not of {name}.", hint=hint)
    raise ConfigError(f"There is no flag {flag}.", hint=_close(flag, modes[name].flags) + hint)


def _close(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, cutoff=0.75)
    return f"Did you mean {_listed(close, 'or')}? " if close else ""


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


# --- help -----------------------------------------------------------------------------------------


def overview(modes: Mapping[str, Mode]) -> str:
    """What `--help` alone says."""
    lines = [f"  {name:16} {mode.what}" for name, mode in modes.items()]
    return "\n".join([
        f"usage: {PROGRAM} --mode MODE [FLAG ...]", "",
        "The whole life of a causal language model: experiment, deploy, test, serve, export.", "",
        *lines, "",
        f"{PROGRAM} --mode MODE --help shows the flags of a mode. Begin with --mode all.", _PRECEDENCE, "",
    ])  # fmt: skip


def reference(modes: Mapping[str, Mode]) -> str:
    """docs/cli.md: the help of every mode."""
    about = "Made by `make docs` from what `--help` prints; a test compares the two."
    pages = [f"# Command line\n\n{about}\n\n```\n{overview(modes)}```\n"]
    pages += [f"## {name}\n\n```\n{_parser_of(name, mode).format_help()}```\n" for name, mode in modes.items()]
    return "\n".join(pages)


def _parser_of(name: str, mode: Mode) -> _Parser:
    parser = _Parser(
        usage=f"{PROGRAM} --mode {name} [FLAG ...]", description=f"{mode.what[0].upper()}{mode.what[1:]}.",
        epilog="\n".join([*_only_variables(), _PRECEDENCE]), add_help=False,
    )  # fmt: skip
    for title, declared in ((f"flags of {name}", mode.own), ("flags of every mode", _in_groups(EVERY_MODE))):
        group = parser.add_argument_group(title)
        for item in declared:
            if item.flag:
                _add(group, item)
    group.add_argument("-v", "--verbose", action="store_true", help="show what MLflow and the libraries say too")
    group.add_argument(*_HELP, action="help", help="show this page")
    return parser


def _add(group: argparse._ArgumentGroup, item: Setting) -> None:
    more: dict[str, Any] = {"dest": item.name} if item.flag.startswith("-") else {"nargs": "?"}
    if item.kind is bool:
        more["action"] = "store_true"
    else:
        more["metavar"] = item.metavar or item.name.rpartition("_")[2].upper()
    if item.kind is tuple:
        more["action"] = "append"
    if item.kind in (int, Path):
        more["type"] = item.kind
    group.add_argument(item.flag, help=_described(item).replace("%", "%%"), **more)


def _described(item: Setting) -> str:
    """Its help, with the values, the default and the variable that the declaration names."""
    words = f"{', '.join(item.choices)}: {item.help}" if item.choices else item.help
    has_default = item.kind is not bool and item.default not in (None, (), "")
    facts = [f"default: {_default(item)}"] if has_default else []
    facts += [item.env] if item.env else []
    return f"{words} ({'; '.join(facts)})" if facts else words


def _default(item: Setting) -> str:
    """Below the data root as one would type it there."""
    return str(item.default).replace(f"{DATA_ROOT}/", "")


def _only_variables() -> list[str]:
    without_flag = [item for item in _in_groups(EVERY_MODE) if not item.flag]
    return [f"  {item.env:24}{item.help} (default: {_default(item)})" for item in without_flag]
