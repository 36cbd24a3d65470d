"""What people may call a snapshot, and what they are told of one that is not there."""

import os

import pytest

from pramfs.cli.tables import node_lines
from pramfs.pram.nodes import NodeInfo
from pramfs.saves.snapshot_names import no_such_snapshot, snapshot_tree, tree_named
from pramfs.system.text import duration

TREES = ["pramfs", "pramfs@a", "pramfs@work", "work", "work@b"]


@pytest.mark.parametrize(
    ("given", "meant"), [("a", "pramfs@a"), ("@a", "pramfs@a"), ("work@a", "work@a")]
)
def test_a_snapshot_is_one_of_the_default_tree_unless_another_is_named(
    given: str, meant: str
) -> None:
    assert snapshot_tree(given, "pramfs") == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("pramfs", "pramfs"),
        ("a", "pramfs@a"),
        ("@a", "pramfs@a"),
        ("work", "work"),  # a tree goes first
        ("@work", "pramfs@work"),
        ("work@b", "work@b"),
        ("b", "b"),  # one of another tree must be named in full
        ("@b", "pramfs@b"),
        ("work@none", "work@none"),
    ],
)
def test_a_tree_or_a_snapshot_is_meant(given: str, meant: str) -> None:
    assert tree_named(given, TREES, "pramfs") == meant


def test_who_names_one_that_is_not_there_is_told_which_there_are() -> None:
    told = str(no_such_snapshot("/image", "pramfs@x", TREES))
    assert told == "/image: no snapshot 'x' of tree 'pramfs'; there are: a, work"
    many = [f"pramfs@{number}" for number in range(10_000)]
    told = str(no_such_snapshot("/image", "pramfs@x", many))
    assert told.endswith("there are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 9990 more")
    odd = [os.fsdecode(b"pramfs@\xff")]
    assert str(no_such_snapshot("/image", "pramfs@x", odd)).endswith("there are: \\xff")


@pytest.mark.parametrize("name", ["short", "pramfs@auto-20261129T044042.118Z-data", "x" * 200])
def test_a_table_of_nodes_stays_in_line_with_long_names(name: str) -> None:
    def node(name: str) -> NodeInfo:
        return NodeInfo(name, "page stream", 5, "1", 1, 1, 10**18)

    heading, *lines = node_lines([node("a"), node(name)])
    assert {line.index("page stream") for line in lines} == {heading.index("type")}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 seconds"), (1.2, "1 second"), (119, "119 seconds"), (86400, "24 hours")],
)
def test_a_time_has_its_unit_in_the_right_number(seconds: float, told: str) -> None:
    assert duration(seconds) == told
