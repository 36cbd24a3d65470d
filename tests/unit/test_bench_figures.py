"""The judge's arithmetic: medians, ratios and verdicts of `scripts/bench`."""

import pytest

from benchmarks.figures import PRAMFS, Row, cost, faster, limit, spread


def test_a_faster_pramfs_has_a_ratio_above_one_where_speed_is_asked() -> None:
    row = Row("write", {PRAMFS: [1.0], "peer": [2.0]})

    reached = row.reached(faster("peer", 1.5))

    assert reached is not None
    assert reached.median == 2.0


def test_a_faster_pramfs_has_a_ratio_below_one_where_a_cost_is_bounded() -> None:
    row = Row("save", {PRAMFS: [1.0], "peer": [2.0]})

    reached = row.reached(cost("peer", 0.7))

    assert reached is not None
    assert reached.median == 0.5


def test_a_ratio_is_taken_within_rounds_so_that_a_slow_minute_cancels_out() -> None:
    row = Row("write", {PRAMFS: [1.0, 10.0, 1.0], "peer": [2.0, 20.0, 2.0]})

    assert row.reached(faster("peer", 1.0)) == (2.0, 2.0, 2.0)


def test_one_outlier_does_not_move_the_median() -> None:
    assert spread([1.0, 1.0, 1.0, 1.0, 100.0]).median == 1.0


@pytest.mark.parametrize(
    ("pramfs", "verdict"), [(1.0, "met"), (1.2, "short"), (1.3, "missed")], ids=str
)
def test_a_speed_target_is_met_or_short_of_the_aim_or_missed(pramfs: float, verdict: str) -> None:
    row = Row("write", {PRAMFS: [pramfs], "peer": [1.0]})

    assert row.verdict(faster("peer", 1.0, must=0.8)) == verdict


@pytest.mark.parametrize(
    ("pramfs", "verdict"), [(700, "met"), (1200, "short"), (1300, "missed")], ids=str
)
def test_a_limit_bounds_the_figure_itself(pramfs: float, verdict: str) -> None:
    row = Row("memory per inode", {PRAMFS: [pramfs]}, "B")

    assert row.verdict(limit(700, must=1229)) == verdict


@pytest.mark.parametrize("missing", [PRAMFS, "peer"])
def test_a_target_with_one_side_missing_is_not_measured(missing: str) -> None:
    samples = {name: [1.0] for name in (PRAMFS, "peer") if name != missing}

    assert Row("write", samples).verdict(faster("peer", 1.0)) == "not measured"
