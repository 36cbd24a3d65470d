"""What the model says, as rows of tables, and these in Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from examples.fleet.settings import GBIT, WAYS, Settings
from examples.fleet.update import RollingUpdate

BATCHES = (100, 500, 2_500, 10_000)
_SHOWN = [way for way in WAYS if way.increment == way.dedup and not (way.zstd and way.relays)]


class Bytes(float):
    """A size, which is read in GiB or the like."""

    def __str__(self) -> str:
        size, unit = float(self), "bytes"
        for larger in ("KiB", "MiB", "GiB", "TiB"):
            if size < 1000:
                break
            size, unit = size / 1024, larger
        return f"{size:.3g} {unit}"


class Seconds(float):
    """A time, which is read in minutes if it is long."""

    def __str__(self) -> str:
        if self < 1:
            return f"{float(self):.2f} s"
        return f"{float(self):.0f} s" if self < 120 else f"{self / 60:.3g} min"


class Rate(float):
    """Bytes a second, which are read as bits."""

    def __str__(self) -> str:
        return f"{self / GBIT:.3g} Gbit/s"


Row = dict[str, str | int | float]


def ways(settings: Settings) -> list[Row]:
    """Return a row for each way to have the dump back."""
    rows: list[Row] = []
    for way in WAYS:
        outcome = RollingUpdate(settings, way).run()
        rows.append(
            {
                "what is sent": way.name,
                "one stream": Bytes(way.stream(settings)),
                "out of the store": Bytes(outcome.store_bytes),
                "last machine back after": Seconds(outcome.seconds),
                "each is away for": Seconds(outcome.away),
                "waits most for": outcome.bottleneck,
            }
        )
    return rows


def batches(settings: Settings) -> list[Row]:
    """Return a row for each size of a batch: when the last machine is back."""
    rows: list[Row] = []
    for size in BATCHES:
        if size <= settings.machines:
            row: Row = {"batch": size}
            for way in _SHOWN:
                outcome = RollingUpdate(replace(settings, batch=size), way).run()
                row[way.name] = Seconds(outcome.seconds)
            rows.append(row)
    return rows


def limits(settings: Settings) -> list[Row]:
    """Return a row for each thing that machines share: so many that receive at once can it serve."""
    shown = [way for way in _SHOWN if not way.relays]
    fetching = {way: min(way.fetcher(settings), settings.nic) for way in shown}
    relayed = {
        way: min(way.receiver(settings), way.sender(settings), settings.nic) for way in shown
    }
    rows: list[Row] = []
    for what, has, rates in (
        ("the store", settings.store, fetching),
        ("the uplink of a rack", settings.uplink, fetching),
        ("the network card of a relay", settings.nic, relayed),
    ):
        row: Row = {"what": what, "has": str(Rate(has))}
        row.update({way.name: int(has / rates[way]) for way in shown})
        rows.append(row)
    requests: Row = {"what": "requests to the store", "has": f"{settings.requests:g}/s"}
    time: Row = {"what": "(alone, a machine takes)", "has": ""}
    for way in shown:
        seconds = way.stream(settings) / fetching[way]
        requests[way.name] = int(settings.requests * seconds / way.requests(settings))
        time[way.name] = Seconds(seconds)
    return [*rows, requests, time]


TABLES = {"ways": ways, "batches": batches, "limits": limits}


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(map(_line, lines))


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(f'{cell:,}' if type(cell) is int else str(cell) for cell in cells)} |"
