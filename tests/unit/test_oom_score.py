"""A daemon is not the first to go when memory runs out, unless somebody wants it so; its children may be."""

from pathlib import Path

import pytest

from pramfs.pram import verify
from pramfs.pram.links import Chain
from pramfs.system import oom_score
from pramfs.system.forked_call import ForkedCall
from pramfs.system.oom_score import SPARED


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the file of the process, as lowering it takes a capability."""
    path = tmp_path / "oom_score_adj"
    monkeypatch.setattr(oom_score, "_SCORE", path)
    return path


@pytest.mark.parametrize(
    ("inherited", "then"),
    [(0, SPARED), (100, SPARED), (200, SPARED), (300, 300), (1000, 1000), (-499, -499), (-1000, -1000)],
)  # fmt: skip
def test_what_somebody_has_chosen_stays(score: Path, inherited: int, then: int) -> None:
    score.write_text(f"{inherited}\n")
    oom_score.ask_to_be_spared()
    assert int(score.read_text()) == then


def test_where_there_is_no_such_score_nothing_happens(score: Path) -> None:
    oom_score.ask_to_be_spared()
    oom_score.be_like_others()
    assert not score.exists()


@pytest.mark.parametrize(("inherited", "then"), [(SPARED, 0), (-1000, 0), (0, 0), (300, 300)])
def test_children_do_not_keep_a_protection(score: Path, inherited: int, then: int) -> None:
    score.write_text(f"{inherited}\n")
    ForkedCall(lambda: b"").result()
    assert int(score.read_text()) == then
    score.write_text(f"{inherited}\n")
    assert verify._Helper(None, Chain(), verify._Queue([]), None).result() == []  # type: ignore[arg-type]
    assert int(score.read_text()) == then
