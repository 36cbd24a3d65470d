"""Transfers that share links, as fluids: max-min fair rates, and what ends when.

Every transfer has a route: the links that it takes, and the most that one transfer on it can do. Transfers
with the same route are one group and have one rate. At any time the rates are max-min fair: no transfer
could have more without another one that has no more than it getting less. That is what TCP connections of
about the same round-trip time come close to. Rates are computed anew when a transfer begins or ends.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Action = Callable[[], None]

_EQUAL = 1 + 1e-9  # rates that differ by rounding are the same


@dataclass(eq=False)
class Link:
    """Something that transfers share: so many bytes a second. `name` is for tables."""

    name: str
    capacity: float


@dataclass(frozen=True, eq=False)
class Route:
    """The links that a transfer takes. Alone it would do `limit` bytes a second, because of `limited_by`."""

    links: tuple[Link, ...]
    limit: float = math.inf
    limited_by: str = ""


@dataclass(eq=False)
class Group:
    """The transfers on one route that are under way."""

    route: Route
    rate: float = 0.0
    bottleneck: str = ""
    served: float = 0.0  # bytes that a transfer would have had that was there all the time
    ends: list[tuple[float, int, Action]] = field(default_factory=list)  # a heap, by `served`


def share_fairly(groups: Iterable[Group]) -> None:
    """Set the rates of all groups, and what keeps each from having more.

    All rates rise together; those on a link that is full, or at their limit, stay where they are.
    """
    rising = set(groups)
    room: dict[Link, float] = {}
    users: dict[Link, int] = defaultdict(int)
    for group in rising:
        for link in group.route.links:
            room[link] = link.capacity
            users[link] += len(group.ends)
    while rising:
        full = {link: room[link] / count for link, count in users.items() if count}
        level = min([*full.values(), *(group.route.limit for group in rising)])
        narrow = {link for link, rate in full.items() if rate <= level * _EQUAL}
        for group in list(rising):
            if group.route.limit <= level * _EQUAL:
                group.bottleneck = group.route.limited_by
            elif full_ones := narrow.intersection(group.route.links):
                group.bottleneck = min(link.name for link in full_ones)
            else:
                continue
            group.rate = level
            rising.remove(group)
            for link in group.route.links:
                room[link] = max(0.0, room[link] - level * len(group.ends))
                users[link] -= len(group.ends)


class Simulation:
    """What happens when: actions at their times, and transfers that share links.

    With a `resolution` (seconds) transfers end, and actions happen, at multiples of it, which is up to so
    much later; else the time is exact. Nothing here is random.
    """

    def __init__(self, resolution: float = 0.0) -> None:
        self.now = 0.0
        self.sent: dict[Link, float] = defaultdict(float)  # bytes
        self.waited: dict[str, float] = defaultdict(float)  # seconds of transfers, by bottleneck
        self._resolution = resolution
        self._groups: dict[Route, Group] = {}
        self._actions: list[tuple[float, int, Action]] = []
        self._count = 0

    def after(self, seconds: float, action: Action) -> None:
        """Have something happen later."""
        heapq.heappush(self._actions, (self.now + seconds, self._number(), action))

    def transfer(self, route: Route, size: float, done: Action) -> None:
        """Begin a transfer of so many bytes; `done` happens at its end."""
        group = self._groups.setdefault(route, Group(route))
        heapq.heappush(group.ends, (group.served + size, self._number(), done))
        for link in route.links:
            self.sent[link] += size

    def run(self) -> float:
        """Go on until nothing is left to happen; return the time, in seconds."""
        while self._actions or self._groups:
            share_fairly(self._groups.values())
            self._move_to(self._on_grid(self._next()))
            for action in [*self._ended(), *self._due()]:
                action()
        return self.now

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _next(self) -> float:
        times = [
            self.now + (group.ends[0][0] - group.served) / group.rate
            for group in self._groups.values()
        ]
        if self._actions:
            times.append(self._actions[0][0])
        return min(times)

    def _on_grid(self, time: float) -> float:
        if not self._resolution:
            return time
        return math.ceil(time / self._resolution - 1e-6) * self._resolution

    def _move_to(self, time: float) -> None:
        seconds = time - self.now
        for group in self._groups.values():
            group.served += group.rate * seconds
            self.waited[group.bottleneck] += len(group.ends) * seconds
        self.now = time

    def _ended(self) -> list[Action]:
        ended: list[Action] = []
        for group in list(self._groups.values()):
            while group.ends and group.ends[0][0] <= group.served * _EQUAL:
                ended.append(heapq.heappop(group.ends)[2])
            if not group.ends:
                del self._groups[group.route]
        return ended

    def _due(self) -> list[Action]:
        due: list[Action] = []
        while self._actions and self._actions[0][0] <= self.now * _EQUAL:
            due.append(heapq.heappop(self._actions)[2])
        return due
