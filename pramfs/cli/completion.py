"""Completion for bash, zsh and fish, made from the parser and the mount options.

All shells complete the same: commands, their flags and the values of these, the comma-separated list after
`-o`, and operands that are files or directories.
"""

import argparse
import re
from collections.abc import Iterator, Sequence

from pramfs.cli.main import build_parser
from pramfs.options import OPTIONS, Option

MADE_BY = "Made by python -m pramfs.cli.manual; do not edit."

_FILE = {"IMAGE", "IMAGE|MOUNTPOINT", "IMAGE-DEVICE", "FILE", "PATH", "SOURCE", "TARGET"}
_DIRECTORY = {"MOUNTPOINT", "DIR"}


def completion_files() -> dict[str, str]:
    """Return the text for each shell, by the file name that the shell looks for."""
    return {
        "pramfs.bash": "\n".join([*_bash(), ""]),
        "_pramfs": "\n".join([*_zsh(), ""]),
        "pramfs.fish": "\n".join([*_fish(), ""]),
    }


def flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments that begin with a dash, in the order of the parser."""
    return [action for action in parser._actions if action.option_strings]


def operands(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the positional arguments, in the order of the parser."""
    return [action for action in parser._actions if not action.option_strings]


def _summaries() -> dict[str, str]:
    """Return a one-line summary of each command."""
    return {
        choice.dest: choice.help or ""
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }


def _words_of(actions: Sequence[argparse.Action]) -> list[str]:
    return [word for action in actions for word in action.option_strings]


def _choices(value: str) -> list[str]:
    """Return the words that a mount option accepts, if there are only a few."""
    return value.split("|") if "|" in value else []


def _words(option: Option) -> list[str]:
    """Return the completions of a mount option: `ro`; `size=`; `verify=full` and `verify=lazy`."""
    if not option.value:
        return [option.name]
    return [f"{option.name}={choice}" for choice in _choices(option.value) or [""]]


# --- bash ---------------------------------------------------------------------------------------

# COMP_WORDS is not used, because readline splits `-o size=1G,ro` at the equals sign, and at colons. A
# completion must begin after the last of these; `cut` is the part before it.
_BASH_HEAD = """\
_pramfs() {
    local line=${COMP_LINE:0:COMP_POINT} words=""
    local typed=${line##*[[:space:]]}
    local -a given
    read -ra given <<<"${line%"$typed"}"
    COMPREPLY=()
    if ((${#given[@]} == 1)); then"""
_BASH_IF_OPTIONS = """\
    elif [[ ${given[1]} == mount &&
        ( ${given[-1]} =~ ^(-o|--options)$ || $typed =~ ^(-o.|--options=) ) ]]; then"""
_BASH_OPTIONS = """\
        local list=${typed#-o} cut=${typed%"${typed##*[=:]}"}
        list=${list#--options=}
        local last=${list##*,}
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -P "${typed%"$last"}" -W "$words" -- "$last")
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
        return"""
_BASH_TAIL = """\
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$typed")
}
complete -F _pramfs pramfs"""


def _bash() -> Iterator[str]:
    parser = build_parser()
    commands = parser.commands()
    in_directories = [name for name, command in commands.items() if _wants_directory(command)]
    yield f"# {MADE_BY}"
    yield _BASH_HEAD
    yield f'        words="{" ".join([*commands, *_words_of(flags(parser))])}"'
    yield _BASH_IF_OPTIONS
    yield f'        words="{" ".join(word for option in OPTIONS for word in _words(option))}"'
    yield _BASH_OPTIONS
    yield "    elif [[ $typed == -* && $typed != *=* ]]; then"
    yield "        case ${given[1]} in"
    for name, command in commands.items():
        yield f'            {name}) words="{" ".join(_words_of(flags(command)))}" ;;'
    yield "        esac"
    yield f"    elif [[ ${{given[1]}} =~ ^({'|'.join(in_directories)})$ ]]; then"
    yield "        compopt -o dirnames"
    yield "    else"
    yield "        compopt -o default"
    yield "    fi"
    yield _BASH_TAIL


def _wants_directory(parser: argparse.ArgumentParser) -> bool:
    return all(action.metavar in _DIRECTORY for action in operands(parser))


# --- zsh ----------------------------------------------------------------------------------------


def _zsh() -> Iterator[str]:
    yield "#compdef pramfs"
    yield f"# {MADE_BY}"
    yield "local -a commands mount_options"
    yield "local curcontext=$curcontext state line ret=1"
    yield "commands=("
    yield from (f"  {_quoted(f'{name}:{summary}')}" for name, summary in _summaries().items())
    yield ")"
    yield "mount_options=("
    yield from (f"  {_zsh_option(option.name, option.value, option.help)}" for option in OPTIONS)
    yield ")"
    first = [*_zsh_flags(build_parser()), "'1:command:->command'", "'*::argument:->argument'"]
    yield f"_arguments -C {' '.join(first)} && ret=0"
    yield "case $state in"
    yield "  command) _describe command commands && ret=0; return ret ;;"
    yield "  argument) ;;"
    yield "  *) return ret ;;"
    yield "esac"
    yield "case $words[1] in"
    for name, parser in build_parser().commands().items():
        specs = " ".join([*_zsh_flags(parser), *_zsh_operands(parser)])
        yield f"  {name}) _arguments -C {specs} && ret=0 ;;"
    yield "esac"
    yield "[[ $state != mount_options ]] || _values -s , 'mount option' $mount_options && ret=0"
    yield "return ret"


def _zsh_option(name: str, value: str, help_: str) -> str:
    words = _choices(value)
    action = f"({' '.join(words)})" if words else " "
    takes = f":{_zsh_plain(value)}:{action}" if value else ""
    many = "*" if name == "banned" else ""
    return _quoted(f"{many}{name}[{_zsh_plain(help_)}]{takes}")


def _zsh_flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in flags(parser):
        words = action.option_strings
        others = f"({' '.join(words)})" if len(words) > 1 and not _is_list(action) else ""
        takes = f":{_zsh_plain(str(action.metavar))}:{_zsh_value(action)}" if action.metavar else ""
        many = "*" if _is_list(action) else ""
        for word in words:
            # With these signs a value may stand in the same word or in the next.
            joined = ("=" if word.startswith("--") else "+") if takes else ""
            yield _quoted(f"{others}{many}{word}{joined}[{_zsh_plain(action.help or '')}]{takes}")


def _zsh_operands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for place, action in enumerate(operands(parser), start=1):
        where = {"*": "*", "+": "*"}.get(str(action.nargs), str(place))
        yield _quoted(f"{where}:{_zsh_plain(str(action.metavar))}:{_zsh_value(action)}")


def _zsh_value(action: argparse.Action) -> str:
    if _is_list(action):
        return "->mount_options"
    if action.metavar in _DIRECTORY:
        return "_path_files -/"
    return "_files" if action.metavar in _FILE else " "


def _zsh_plain(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


# --- fish ---------------------------------------------------------------------------------------


_FISH_HEAD = """\
function __pramfs_mount_options
    set -l typed (commandline --current-token | string replace --regex -- '^--options=' '')
    set -l before (string replace --regex -- '[^,]*$' '' "$typed")
    printf '%s\\t%s\\n' \\"""
_FISH_TAIL = """\
end
complete -c pramfs -f"""


def _fish() -> Iterator[str]:
    first = "complete -c pramfs -n __fish_use_subcommand"
    yield f"# {MADE_BY}"
    yield _FISH_HEAD
    yield " \\\n".join(
        f'        "$before"{word} {_quoted(option.help)}'
        for option in OPTIONS
        for word in _words(option)
    )
    yield _FISH_TAIL
    yield from _fish_flags(first, build_parser())
    for name, summary in _summaries().items():
        yield f"{first} -a {name} -d {_quoted(summary)}"
    for name, parser in build_parser().commands().items():
        seen = f"complete -c pramfs -n '__fish_seen_subcommand_from {name}'"
        yield from _fish_flags(seen, parser)
        kinds = {action.metavar for action in operands(parser)}
        if kinds & _FILE:
            yield f"{seen} -F"
        elif kinds & _DIRECTORY:
            yield f"{seen} -a '(__fish_complete_directories)'"


def _fish_flags(start: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in flags(parser):
        words = " ".join(
            f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
            for word in action.option_strings
        )
        yield f"{start} {words}{_fish_value(action)} -d {_quoted(action.help or '')}"


def _fish_value(action: argparse.Action) -> str:
    if _is_list(action):
        return " -x -a '(__pramfs_mount_options)'"
    if action.metavar in _DIRECTORY:
        return " -x -a '(__fish_complete_directories)'"
    if action.metavar in _FILE:
        return " -r -F"
    return " -x" if action.metavar else ""


# --- all ----------------------------------------------------------------------------------------


def _is_list(action: argparse.Action) -> bool:
    """Return whether the value of the flag is a list of mount options."""
    return "-o" in action.option_strings


def _quoted(text: str) -> str:
    """Return the text quoted as one word for all of these shells."""
    return "'" + text.replace("'", r"'\''") + "'"
