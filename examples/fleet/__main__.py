"""The command line: `scripts/fleet-model --help`."""

import argparse
import json
import math
from collections.abc import Callable

from examples.fleet.settings import GBIT, GIB, Settings
from examples.fleet.tables import TABLES, markdown

# Name, unit (what the number is multiplied with), and what it is.
_OPTIONS: tuple[tuple[str, float, str], ...] = (
    ("machines", 1, "in the fleet"),
    ("rack", 1, "machines in a rack"),
    ("batch", 1, "machines that are updated at once"),
    ("dump", GIB, "GiB that each restores"),
    ("changed", 1, "%% of its pages that are not in the snapshot which a machine has"),
    ("store", GBIT, "Gbit/s that the store sends"),
    ("requests", 1, "a second that the store answers"),
    ("kept", 1, "streams that the store has"),
    ("uplink", GBIT, "Gbit/s between a rack and the store"),
    ("nic", GBIT, "Gbit/s of a machine's network card"),
    ("kexec", 1, "seconds from the order to restart until the network is there"),
    ("jitter", 1, "seconds that it may take longer, or less long"),
    ("restore", 1, "seconds that CRIU takes"),
    ("fanout", 1, "machines that a relay sends to at once"),
    ("seed", 1, "of the random part of restarts"),
)


def main(words: list[str] | None = None) -> None:
    """Print a table."""
    arguments = vars(_parser().parse_args(words))
    table, as_json = TABLES[arguments.pop("table")], arguments.pop("json")
    rows = table(Settings(**arguments))
    print(json.dumps(rows, indent=1) if as_json else markdown(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fleet-model",
        description="Simulate a rolling kernel update of a fleet whose machines fetch a dump from a store, "
        "and restore it; docs/scale.md says what comes out.",
    )
    parser.add_argument(
        "table",
        nargs="?",
        choices=TABLES,
        default="ways",
        help="ways to send (the default), sizes of batches, or how many machines fill what",
    )
    parser.add_argument("--json", action="store_true", help="bytes and seconds, for programs")
    parser.add_argument(
        "--together", action="store_true", help="a batch is whole racks, not some of every rack"
    )
    for name, unit, what in _OPTIONS:
        default = getattr(Settings, name)
        parser.add_argument(
            f"--{name}",
            type=_whole if isinstance(default, int) else _number(unit),
            default=default,
            metavar="N",
            help=f"{what} (default: {default / unit:g})",
        )
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"not a number from 1 on: {text}")
    return number


def _number(unit: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = float(text) * unit
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"not more than 0: {text}")
        return number

    return parse


if __name__ == "__main__":
    main()
