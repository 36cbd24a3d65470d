"""The lanes of tests, see tests/support/lanes.py: where a new tier belongs is not left to memory."""

import re
from pathlib import Path

import pytest

from tests.support import lanes
from tests.support.checkout import CHECKOUT

TIERS = sorted({path.parent for path in CHECKOUT.glob("tests/*/test_*.py")})


def imports(tier: Path, module: str) -> bool:
    line = re.compile(rf"^from {re.escape(module)} import", re.MULTILINE)
    return any(line.search(path.read_text()) for path in tier.glob("*.py"))


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.name)
def test_tiers_with_virtual_machines_share_a_lane(tier: Path) -> None:
    lane = lanes.lane(f"tests/{tier.name}/x")
    assert (lane == "virtual machines") == imports(tier, "tests.vm.machine")


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.name)
def test_a_tier_that_mounts_has_a_lane(tier: Path) -> None:
    if imports(tier, "tests.mounted.conftest"):
        assert lanes.lane(f"tests/{tier.name}/x") is not None
