"""A rolling update of a fleet: batches of machines restart, fetch their dump, and restore it."""

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import partial

from examples.fleet.flows import Action, Link, Route, Simulation
from examples.fleet.settings import Settings, Way

# What machines wait for.
KEXEC, RESTORE, QUEUE = "restart", "publish and restore", "turn at the relay"
STORE, REQUESTS, UPLINK = "store", "requests", "uplink of the rack"
NIC, RECEIVER, RELAY_NIC, RELAY = "network card", "receiver", "network card of the relay", "relay"


@dataclass(frozen=True)
class Outcome:
    """What an update took: seconds until the last machine is back, bytes out of the store.

    `away` is how long a machine is away on average, `waited` the seconds of all machines by what they
    were waiting for.
    """

    seconds: float
    store_bytes: float
    away: float
    waited: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """What machines have waited for most."""
        return max(self.waited, key=lambda name: self.waited[name])


@dataclass(eq=False)
class Rack:
    """Machines behind one uplink.

    The first that restarts is the relay; the queue says since when others wait for it.
    """

    from_store: Route
    from_relay: Route
    has_relay: bool = False
    relay_is_back: bool = False
    sending: int = 0
    queue: "deque[float]" = field(default_factory=deque)


class RollingUpdate:
    """One run of the model."""

    def __init__(self, settings: Settings, way: Way) -> None:
        self._settings, self._way = settings, way
        self._simulation = Simulation(settings.resolution)
        self._waited: dict[str, float] = defaultdict(float)
        self._random = random.Random(settings.seed)
        self._store = Link(STORE, settings.store)
        self._racks = self._make_racks()
        self._left = deque(range(settings.machines))
        self._missing = 0  # machines of this batch that are not back

    def run(self) -> Outcome:
        """Update all machines."""
        self._next_batch()
        seconds = self._simulation.run()
        waited = {**self._waited}
        for name, spent in self._simulation.waited.items():
            waited[name] = waited.get(name, 0) + spent
        away = sum(waited.values()) / self._settings.machines
        return Outcome(seconds, self._simulation.sent[self._store], away, waited)

    def _make_racks(self) -> list[Rack]:
        settings, way = self._settings, self._way
        requests = Link(REQUESTS, settings.requests * way.stream(settings) / way.requests(settings))
        card = (settings.nic, NIC)
        fetching = min(card, (way.fetcher(settings), RECEIVER))
        sent = min(card, (way.receiver(settings), RECEIVER), (way.sender(settings), RELAY))
        racks = []
        for _ in range(-(-settings.machines // settings.rack)):
            links = (self._store, requests, Link(UPLINK, settings.uplink))
            relay = Link(RELAY_NIC, settings.nic)
            racks.append(Rack(Route(links, *fetching), Route((relay,), *sent)))
        return racks

    def _rack_of(self, machine: int) -> Rack:
        if self._settings.together:
            return self._racks[machine // self._settings.rack]
        return self._racks[machine % len(self._racks)]

    def _next_batch(self) -> None:
        settings = self._settings
        batch = [self._left.popleft() for _ in range(min(settings.batch, len(self._left)))]
        self._missing = len(batch)
        for machine in batch:
            rack = self._rack_of(machine)
            seconds = settings.kexec + settings.jitter * self._random.uniform(-1, 1)
            self._spend(KEXEC, seconds, partial(self._fetch, rack))

    def _spend(self, on: str, seconds: float, then: Action) -> None:
        self._waited[on] += seconds
        self._simulation.after(seconds, then)

    def _fetch(self, rack: Rack) -> None:
        if self._way.relays and rack.has_relay:
            rack.queue.append(self._simulation.now)
            self._serve(rack)
        else:
            rack.has_relay = True
            self._transfer(rack.from_store, partial(self._restore, rack))

    def _transfer(self, route: Route, then: Action) -> None:
        self._simulation.transfer(route, self._way.stream(self._settings), then)

    def _serve(self, rack: Rack) -> None:
        while rack.relay_is_back and rack.queue and rack.sending < self._settings.fanout:
            self._waited[QUEUE] += self._simulation.now - rack.queue.popleft()
            rack.sending += 1
            self._transfer(rack.from_relay, partial(self._relay_has_sent, rack))

    def _relay_has_sent(self, rack: Rack) -> None:
        rack.sending -= 1
        self._restore(rack)
        self._serve(rack)

    def _restore(self, rack: Rack) -> None:
        seconds = self._way.afterwards(self._settings) + self._settings.restore
        self._spend(RESTORE, seconds, partial(self._is_back, rack))

    def _is_back(self, rack: Rack) -> None:
        rack.relay_is_back = True
        self._serve(rack)
        self._missing -= 1
        if not self._missing:
            self._next_batch()
