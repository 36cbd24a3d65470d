"""Figures: samples of one row for every peer, the targets set for it, and the verdicts.

Medians and quartiles only: a shared machine has outliers, and a mean believes them. A ratio is
taken round by round, between neighbours in time, and then summed up, so that a slow minute of the
machine slows both sides of it. No measuring in here and no printing.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PRAMFS = "pramfs"

Unit = Literal["s", "B", "%", "x"]
Sense = Literal["at least", "at most"]
Verdict = Literal["met", "short", "missed", "not measured"]


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    low: float
    median: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Sum up *samples* (not empty) by their quartiles."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(low, median, high)


@dataclass(frozen=True)
class Target:
    """What pramfs shall reach in a row.

    `against` names the peer; without one, pramfs's figure itself is bounded. "at least" bounds how
    many times faster pramfs is, "at most" how many times as much it takes. `aim` is the target,
    `must` the bound below which it is no longer the file system that the README promises.
    """

    sense: Sense
    aim: float
    against: str | None = None
    must: float | None = None

    def figure(self, pramfs: float, peer: float) -> float:
        """Return the ratio that this target bounds, from the figures of one round."""
        if self.against is None:
            return pramfs
        return peer / pramfs if self.sense == "at least" else pramfs / peer

    def holds(self, figure: float, bound: float) -> bool:
        """Whether *figure* keeps *bound*."""
        return figure >= bound if self.sense == "at least" else figure <= bound


def faster(against: str, aim: float, must: float | None = None) -> Target:
    """At least *aim* times the speed of *against*."""
    return Target("at least", aim, against, must)


def cost(against: str, aim: float) -> Target:
    """At most *aim* times what *against* takes."""
    return Target("at most", aim, against)


def limit(aim: float, must: float | None = None) -> Target:
    """At most *aim*, in the row's own unit."""
    return Target("at most", aim, must=must)


@dataclass
class Row:
    """One line of the table: the samples of every peer, one a round, and what is asked of them."""

    name: str
    samples: dict[str, list[float]]
    unit: Unit = "s"
    targets: list[Target] = field(default_factory=list)

    def median(self, peer: str) -> float | None:
        """Return the median figure of *peer*, if it was measured."""
        samples = self.samples.get(peer)
        return spread(samples).median if samples else None

    def reached(self, target: Target) -> Spread | None:
        """Return what pramfs reached of *target*, if both sides were measured."""
        pramfs = self.samples.get(PRAMFS)
        peer = self.samples.get(target.against or PRAMFS)
        if not pramfs or not peer:
            return None
        return spread([target.figure(*pair) for pair in zip(pramfs, peer, strict=True)])

    def verdict(self, target: Target) -> Verdict:
        """Whether the median meets the aim, or at least what must hold."""
        reached = self.reached(target)
        if reached is None:
            return "not measured"
        if target.holds(reached.median, target.aim):
            return "met"
        if target.must is not None and target.holds(reached.median, target.must):
            return "short"
        return "missed"
