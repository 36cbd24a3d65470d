"""The model of docs/scale.md: shares are fair, known limits come out, and the page shows what it prints."""

import json
import math
import random
import shlex
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from examples.fleet.flows import Group, Link, Route, Simulation, share_fairly
from examples.fleet.settings import GBIT, GIB, Measured, Settings, Way
from examples.fleet.update import Outcome, RollingUpdate
from tests.support.checkout import CHECKOUT

FULL = Way("all")
SMALL = Settings(machines=80, batch=80, jitter=1e-9, resolution=0.0)
WITHOUT_LIMITS = replace(SMALL, store=1e15, requests=1e9, uplink=1e15, nic=1e15)


def group(*links: Link, transfers: int = 1, limit: float = math.inf) -> Group:
    return Group(
        Route(links, limit, "itself"), ends=[(1.0, n, lambda: None) for n in range(transfers)]
    )


def update(settings: Settings, way: Way = FULL) -> Outcome:
    return RollingUpdate(settings, way).run()


def before_and_after(settings: Settings, way: Way = FULL) -> float:
    """Return the seconds that a machine takes beside the transfer."""
    return settings.kexec + way.afterwards(settings) + settings.restore


def test_who_is_held_up_elsewhere_leaves_room_for_others() -> None:
    one, two = Link("one", 10), Link("two", 20)
    both, first, second = group(one, two), group(one), group(two)
    share_fairly([both, first, second])
    assert [both.rate, first.rate, second.rate] == [5, 5, 15]
    assert [both.bottleneck, first.bottleneck, second.bottleneck] == ["one", "one", "two"]


def test_a_limit_of_its_own_leaves_the_rest_to_the_others() -> None:
    link = Link("link", 10)
    slow, others = group(link, limit=1), group(link, transfers=3)
    share_fairly([slow, others])
    assert [slow.rate, others.rate, slow.bottleneck] == [1, 3, "itself"]


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_max_min_fair(seed: int) -> None:
    rng = random.Random(seed)
    links = [Link(f"{number}", rng.uniform(1, 100)) for number in range(6)]
    groups = [
        group(
            *rng.sample(links, rng.randint(1, 4)),
            transfers=rng.randint(1, 9),
            limit=rng.uniform(1, 30),
        )
        for _ in range(12)
    ]
    share_fairly(groups)
    full = {}
    for link in links:
        users = [each for each in groups if link in each.route.links]
        used = sum(each.rate * len(each.ends) for each in users)
        assert used <= link.capacity * 1.000001
        if used >= link.capacity * 0.999999:
            full[link] = max(each.rate for each in users)
    for each in groups:
        assert each.rate == pytest.approx(each.route.limit) or any(
            each.rate >= full.get(link, math.inf) * 0.999999 for link in each.route.links
        )


def test_transfers_that_begin_one_after_the_other_end_when_they_should() -> None:
    simulation, ends = Simulation(), list[float]()
    route = Route((Link("link", 10),))
    for start in (0, 1):
        simulation.after(
            start, lambda: simulation.transfer(route, 20, lambda: ends.append(simulation.now))
        )
    assert simulation.run() == pytest.approx(4)
    assert ends == [pytest.approx(3), pytest.approx(4)]


def test_a_full_store_takes_as_long_as_all_bytes_take_it() -> None:
    settings = replace(WITHOUT_LIMITS, store=10 * GBIT)
    outcome = update(settings)
    size = settings.machines * FULL.stream(settings)
    assert outcome.store_bytes == pytest.approx(size)
    assert outcome.seconds == pytest.approx(size / settings.store + before_and_after(settings))
    assert outcome.bottleneck == "store"


def test_few_requests_a_second_hold_up_everybody() -> None:
    settings = replace(WITHOUT_LIMITS, requests=100.0)
    asked = settings.machines * FULL.requests(settings)
    assert asked == settings.machines * (
        1 + settings.kept + math.ceil(4.004 * GIB / Measured.piece)
    )
    outcome = update(settings)
    assert outcome.seconds == pytest.approx(asked / 100 + before_and_after(settings))
    assert outcome.bottleneck == "requests"


def test_a_rack_has_its_uplink_and_a_machine_its_card_and_its_receiver() -> None:
    size = FULL.stream(SMALL)
    cases: tuple[tuple[dict[str, Any], float], ...] = (
        ({"uplink": GBIT}, SMALL.rack * size / GBIT),
        ({"nic": GBIT}, size / GBIT),
        ({}, size / FULL.fetcher(SMALL)),
    )
    for limits, seconds in cases:
        settings = replace(WITHOUT_LIMITS, **limits)
        assert update(settings).seconds == pytest.approx(seconds + before_and_after(settings))


@pytest.mark.parametrize("together", [True, False])
def test_batches_follow_one_another(together: bool) -> None:
    settings = replace(WITHOUT_LIMITS, batch=30, together=together)  # the last of three has 20
    once = update(replace(WITHOUT_LIMITS, machines=1, batch=1)).seconds
    assert update(settings).seconds == pytest.approx(3 * once)


def test_relays_take_one_stream_a_rack_out_of_the_store_and_send_to_few_at_once() -> None:
    way = replace(FULL, relays=True)
    settings = replace(WITHOUT_LIMITS, fanout=3)
    outcome = update(settings, way)
    size = way.stream(settings)
    assert outcome.store_bytes == pytest.approx(2 * size)
    rate = min(way.receiver(settings), way.sender(settings))
    relay = size / way.fetcher(settings) + way.afterwards(settings) + settings.restore
    assert outcome.seconds == pytest.approx(relay + 13 * size / rate + before_and_after(settings))


def test_an_increment_is_smaller_only_if_equal_pages_share_frames() -> None:
    settings = Settings(changed=5.0)
    apart = Way("apart", increment=True)
    assert apart.stream(settings) == FULL.stream(settings)
    assert replace(apart, dedup=True).stream(settings) == pytest.approx(FULL.stream(settings) / 20)


def test_a_coarse_clock_changes_little_and_a_seed_repeats_a_run() -> None:
    settings = Settings(machines=400, batch=100)
    coarse, exact = update(settings), update(replace(settings, resolution=0.0))
    assert coarse == update(settings)
    assert coarse.seconds != update(replace(settings, seed=2)).seconds
    assert exact.seconds <= coarse.seconds <= exact.seconds + 4 * 3 * settings.resolution


def model(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CHECKOUT / "scripts/fleet-model", *words],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip


def test_programs_get_plain_numbers() -> None:
    rows = json.loads(model("--json", "--machines", "80", "--batch", "40").stdout)
    assert rows[0]["what is sent"] == "all of it"
    assert rows[0]["out of the store"] == pytest.approx(80 * 4.004 * GIB)


@pytest.mark.parametrize(
    "words", [("--batch", "0"), ("--store", "-1"), ("--dump", "x"), ("racks",)]
)
def test_a_wrong_option_is_named(words: tuple[str, ...]) -> None:
    refused = model(*words)
    assert refused.returncode == 2
    assert words[-1] in refused.stderr.splitlines()[-1]


def shown() -> list[tuple[str, str]]:
    """Return each command of docs/scale.md that is followed by a table, and that table."""
    found, command, table = [], "", list[str]()
    for line in [*(CHECKOUT / "docs/scale.md").read_text().splitlines(), ""]:
        if line.startswith("    scripts/fleet-model"):
            command = line.strip()
        elif command and line.startswith("|"):
            table.append(line)
        elif table:
            found.append((command, "\n".join(table)))
            command, table = "", []
    return found


@pytest.mark.parametrize(("command", "table"), shown(), ids=[command for command, _ in shown()])
def test_the_page_shows_what_the_model_prints(command: str, table: str) -> None:
    assert model(*shlex.split(command)[1:]).stdout.strip() == table


def test_the_page_shows_all_tables() -> None:
    assert len(shown()) >= 3
