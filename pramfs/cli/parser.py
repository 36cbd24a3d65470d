"""The parser of the command line, which answers a wrong argument with one line and a suggestion.

It knows no commands by itself: each group adds its own with `add_command`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from pramfs.cli import helptext
from pramfs.errors import EXIT_USAGE
from pramfs.system.text import printable

# The commands of a parser.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Accepts no abbreviations; exits with the code of mount(8) for wrong usage."""

    usage_code = EXIT_USAGE

    def __init__(self, **settings: Any) -> None:
        settings |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**settings)
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override] # the overloads are about `namespace`
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown arguments here, where the options of the command are known, not in the parent."""
        self._words = list(sys.argv[1:] if args is None else args)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            shown = (word if word.strip() else f"'{word}'" for word in unknown)
            self.error(f"unrecognized arguments: {' '.join(shown)}")
        return known, []

    def error(self, message: str) -> NoReturn:
        options = [word for action in self._actions for word in action.option_strings]
        if message.startswith("the following arguments are required"):
            # What is wrong comes before what is missing.
            given = (word for word in self._words if word.startswith("--") and word != "--")
            wrong = next((word for word in given if word.partition("=")[0] not in options), None)
            message = f"unrecognized arguments: {wrong}" if wrong is not None else message
        message = helptext.corrected(printable(message), self.commands(), options)
        self.exit(self.usage_code, f"{self.prog}: {message}; see {self.prog} --help\n")

    def commands(self) -> "dict[str, Parser]":
        """Return the parsers of its commands, by name."""
        return {
            name: parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name, parser in action.choices.items()
        }


def a_path(text: str) -> Path:
    """Return an argument as a path. An empty one is refused: it is an unset variable, not this directory."""
    _refuse_empty(text, "path")
    _require_directory_of(text)
    return Path(text)


def a_path_in_tree(text: str) -> str:
    """Return an argument that is a path in a tree. An empty one is refused: it is not the whole tree."""
    _refuse_empty(text, "path")
    return text


def perhaps_empty(text: str) -> str:
    """Return an argument that is a list, which may have nothing in it."""
    return text


def a_path_or_url(text: str) -> Path | str:
    """Return an argument as a path, or as it is if it is a URL."""
    return text if "://" in text else a_path(text)


def a_place(text: str) -> str:
    """Return an argument that names a place with streams, which `remote.place` takes apart."""
    if text and "://" not in text:  # an empty one is refused where it is taken apart
        _require_directory_of(text)
    return text


def _a_value(text: str) -> str:
    """Return an argument that has no type. An empty one is refused: it does not mean the default."""
    _refuse_empty(text, "value")
    return text


def _refuse_empty(text: str, what: str) -> None:
    if not text:
        raise argparse.ArgumentTypeError(f"an empty {what}")


def _require_directory_of(path: str) -> None:
    """Refuse a relative path if the current directory was removed: nothing can be there any more."""
    if Path(path).is_absolute():
        return
    try:
        Path.cwd()
    except OSError:
        told = f"'{path}': the current directory is gone, give an absolute path"
        raise argparse.ArgumentTypeError(told) from None


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> Parser:
    """Add a command that `run` carries out, with its text from `helptext`, and return its parser."""
    description = helptext.wrapped(helptext.TEXTS[name])
    parser = commands.add_parser(name, help=summary, description=description)
    parser.register("type", None, _a_value)
    parser.set_defaults(run=run, failure_code=None)
    return parser
