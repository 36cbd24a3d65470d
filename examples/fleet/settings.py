"""What the model knows: the fleet, what pramfs was measured to do, and the ways to send."""

import math
from dataclasses import dataclass
from typing import NamedTuple

GIB = 1 << 30
GBIT = 125_000_000  # bytes a second


@dataclass(frozen=True)
class Settings:
    """A fleet and its rolling update. Rates are bytes a second, sizes bytes, times seconds."""

    machines: int = 10_000
    rack: int = 40  # machines in each
    batch: int = 500  # machines that are updated at once; the next ones when all of these are back
    together: bool = False  # a batch takes all machines of a rack, and not some of every rack
    dump: float = 4 * GIB
    changed: float = 5.0  # % of the pages, since the snapshot that a machine has
    store: float = 100 * GBIT
    requests: float = 5_500.0  # that the store answers, a second
    kept: int = 8  # streams in the store: each has a manifest that is read
    uplink: float = 100 * GBIT  # of a rack
    nic: float = 25 * GBIT  # of a machine
    kexec: float = 30.0  # from the order to restart until the network is there, on average
    jitter: float = 10.0  # how much longer or shorter that may be
    restore: float = 5.0  # by CRIU
    fanout: int = 4  # machines that a relay sends to at once
    seed: int = 1  # of the jitter
    resolution: float = 0.5  # see Simulation


class PageCost(NamedTuple):
    """Seconds for each GiB of the pages in a stream."""

    receive: float
    send: float


class Measured:
    """What `python -m examples.fleet.measure` and others have found; docs/scale.md has the tables.

    Times are processor time of one core.
    """

    overhead = 0.0010  # what a stream has beside pages, as a share of these
    zstd = 0.130  # what is left of a page
    zstd_apart = 0.140
    start = 0.25  # seconds, of each command
    whole = PageCost(receive=0.75, send=0.50)
    whole_zstd = PageCost(receive=1.4, send=2.8)
    apart = PageCost(receive=8.0, send=5.2)  # pages changed here and there, each a run of its own
    apart_zstd = PageCost(receive=9.2, send=8.9)
    plan = 0.50  # seconds a GiB of the whole tree, before pages are sent
    publish = 0.40  # seconds a GiB of the whole tree, when they are there
    fetch = 1.6  # seconds a GiB of the stream, from the store, beside receiving it
    ssh = 1.2  # seconds a GiB of the stream, at each end
    piece = 8 << 20  # bytes that a request reads


@dataclass(frozen=True)
class Way:
    """How a machine has its dump again."""

    name: str
    increment: bool = False  # to a snapshot that the machine has
    dedup: bool = False  # pages of the new dump share frames with those of the snapshot
    zstd: bool = False
    relays: bool = False

    @property
    def apart(self) -> bool:
        """Whether only pages are sent that have changed."""
        return self.increment and self.dedup

    def pages(self, settings: Settings) -> float:
        """Return the bytes of the pages that are sent."""
        return settings.dump * settings.changed / 100 if self.apart else settings.dump

    def stream(self, settings: Settings) -> float:
        """Return the bytes of the stream."""
        left = 1.0
        if self.zstd:
            left = Measured.zstd_apart if self.apart else Measured.zstd
        return self.pages(settings) * (left + Measured.overhead)

    def requests(self, settings: Settings) -> int:
        """Return how many requests read the stream from the store: a listing, manifests, pieces."""
        return 1 + settings.kept + math.ceil(self.stream(settings) / Measured.piece)

    def receiver(self, settings: Settings) -> float:
        """Return the rate at which a receiver takes the stream from a relay, with one core."""
        return self.stream(settings) / self._receiving(settings)

    def fetcher(self, settings: Settings) -> float:
        """Return the rate at which it takes the stream from the store, with one core."""
        stream = self.stream(settings)
        return stream / (self._receiving(settings) + stream / GIB * Measured.fetch)

    def sender(self, settings: Settings) -> float:
        """Return the rate at which a relay sends to one machine; send, and ssh, have a core each.

        That is on average: a sender is silent at first, while it plans.
        """
        seconds = Measured.start + settings.dump / GIB * Measured.plan
        seconds += self.pages(settings) / GIB * self._page_cost.send
        return min(self.stream(settings) / seconds, GIB / Measured.ssh)

    def afterwards(self, settings: Settings) -> float:
        """Return the seconds that the start of a receiver takes, and publishing the tree."""
        return Measured.start + settings.dump / GIB * Measured.publish

    @property
    def _page_cost(self) -> PageCost:
        if self.apart:
            return Measured.apart_zstd if self.zstd else Measured.apart
        return Measured.whole_zstd if self.zstd else Measured.whole

    def _receiving(self, settings: Settings) -> float:
        return self.pages(settings) / GIB * self._page_cost.receive


WAYS = (
    Way("all of it"),
    Way("all of it, zstd", zstd=True),
    Way("increment, no dedup", increment=True),
    Way("increment, dedup", increment=True, dedup=True),
    Way("increment, dedup, zstd", increment=True, dedup=True, zstd=True),
    Way("all of it, relays", relays=True),
    Way("all of it, zstd, relays", zstd=True, relays=True),
    Way("increment, dedup, relays", increment=True, dedup=True, relays=True),
)
