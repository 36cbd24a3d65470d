"""After a power cut or a SIGKILL at shutdown the next mount says that the last run did not save.

archiecobbs/s3backer #87: after a power cut unwritten blocks were dropped, and nothing told which they were.
rpodgorny/unionfs-fuse #73: systemd kills the daemon at shutdown. The run directory is gone then: what is
known is in the image.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.mounted.harness import Volume, detach, pramfs

UNCLEAN = "the last run ended without a final save"


def cut_the_power(volume: Volume) -> None:
    """Kill the daemon and remove all that a restart would."""
    state = Path(volume.status()["state"])
    os.kill(volume.pid, signal.SIGKILL)
    volume.daemon.wait()
    detach(volume.root)
    volume.ended(-signal.SIGKILL)
    volume.announce(UNCLEAN)
    state.unlink()


@pytest.fixture
def saved(volume: Volume) -> Volume:
    """A volume that was unmounted once, with a file in it."""
    (volume.mount() / "file").write_bytes(b"kept")
    volume.umount()
    return volume


def test_a_run_that_changed_something_is_known_to_have_lost_it(saved: Volume) -> None:
    root = saved.mount()
    generation = saved.generation
    (root / "new").mkdir()
    cut_the_power(saved)
    assert UNCLEAN in saved.info()["last_run"]
    assert saved.info()["generation"] == generation
    assert [path.name for path in saved.mount().iterdir()] == ["file"]
    assert f"{UNCLEAN}; any change since generation {generation} is lost" in saved.log
    saved.umount()
    saved.mount()
    assert UNCLEAN not in saved.log


@pytest.mark.parametrize("change", ["write", "rename", "chmod", "setxattr"])
def test_any_change_counts(saved: Volume, change: str) -> None:
    root = saved.mount()
    if change == "write":
        with (root / "file").open("r+b") as file:
            file.write(b"lost")
            file.flush()
            os.fsync(file.fileno())
    elif change == "rename":
        (root / "file").rename(root / "other")
    elif change == "chmod":
        (root / "file").chmod(0o600)
    else:
        os.setxattr(root / "file", "user.mine", b"1")
    cut_the_power(saved)
    assert UNCLEAN in saved.info()["last_run"]


@pytest.mark.parametrize(
    ("banned", "runs_before"),
    [("0-4K", 0), ("0-4K", 1), ("4K-8K", 1), ("0-16M", 0), ("0-16M", 1), ("0-16M", 2)],
)
def test_a_ban_of_the_slots_for_super_blocks_hides_nothing(
    saved: Volume, banned: str, runs_before: int
) -> None:
    """As the first example for fstab has it: banned=0-16M."""
    for number in range(runs_before):
        (saved.mount(f"banned={banned}") / f"{number}").touch()
        saved.umount()
    (saved.mount(f"banned={banned}") / "new").touch()
    cut_the_power(saved)
    assert UNCLEAN in saved.info()["last_run"]
    pramfs("check", saved.image).succeeded()


def test_a_run_that_only_read_writes_nothing_and_lost_nothing(saved: Volume) -> None:
    before = saved.image.read_bytes()
    root = saved.mount()
    assert (root / "file").read_bytes() == b"kept"
    assert list(root.iterdir())
    cut_the_power(saved)
    assert saved.image.read_bytes() == before
    assert not saved.info()["last_run"]


def test_a_checkpoint_is_not_the_end(saved: Volume) -> None:
    root = saved.mount()
    (root / "new").touch()
    saved.save()
    cut_the_power(saved)
    assert UNCLEAN in saved.info()["last_run"]
    assert (saved.mount() / "new").exists()


@pytest.mark.parametrize("arena", ["memory"])
def test_the_mark_is_one_write_for_a_whole_run(saved: Volume) -> None:
    """An image on a disk is quiet until the next save."""
    root = saved.mount()
    (root / "one").touch()
    before = saved.image.read_bytes()
    (root / "two").write_bytes(b"more")
    (root / "one").unlink()
    os.sync()
    assert saved.image.read_bytes() == before


def test_a_clean_end_says_nothing(saved: Volume) -> None:
    (saved.mount() / "more").touch()
    state = Path(saved.status()["state"])
    saved.umount()
    state.unlink()
    assert not saved.info()["last_run"]
    pramfs("check", saved.image).succeeded()


@pytest.mark.parametrize("ended", ["changed", "after a checkpoint"])
@pytest.mark.parametrize("state_is_left", [False, True])
def test_what_tools_do_to_the_image_afterwards_hides_nothing(
    saved: Volume, ended: str, state_is_left: bool
) -> None:
    (saved.mount() / "new").touch()
    if ended == "after a checkpoint":
        saved.save()
    pid, state = saved.pid, Path(saved.status()["state"])
    kept = state.read_bytes()
    cut_the_power(saved)
    if state_is_left:
        state.write_bytes(kept)
    told = pramfs("put", saved.image, "note", stdin=b"text").succeeded().err
    assert "ended without a final save" in told
    assert len(told.splitlines()) == 1
    pramfs("free", saved.image, "note").succeeded()
    known = saved.info()["last_run"]
    assert UNCLEAN in known
    assert str(pid) not in known
    saved.mount()
    assert UNCLEAN in saved.log
    saved.umount()
    assert UNCLEAN not in saved.info()["last_run"]
    assert not pramfs("put", saved.image, "note", stdin=b"text").succeeded().err
    assert not saved.info()["last_run"]


@pytest.mark.parametrize("state_is_left", [False, True])
def test_a_rollback_after_an_unclean_end_tells_the_truth(
    saved: Volume, state_is_left: bool
) -> None:
    """The rollback publishes a save of its own, which is not the one that the last run did not make."""
    root = saved.mount()
    pramfs("snapshot", root, "good").succeeded()
    (root / "file").write_bytes(b"bad")
    saved.save()
    (root / "lost").touch()
    pramfs("rollback", saved.image, "good").refused(32, "in use")
    state = Path(saved.status()["state"])
    kept = state.read_bytes()
    cut_the_power(saved)
    if state_is_left:
        state.write_bytes(kept)
    assert "ended without a final save" in saved.info()["last_run"]
    told = pramfs("rollback", saved.image, "good").succeeded()
    assert "ended without a final save" in told.err
    assert "saved to" not in told.text
    assert UNCLEAN in saved.info()["last_run"]
    pramfs("check", saved.image).succeeded()
    saved.mount()
    assert UNCLEAN in saved.log
    assert (root / "file").read_bytes() == b"kept"
    assert not (root / "lost").exists()
    saved.umount()
    assert "saved at unmount" in saved.info()["last_run"]
    saved.mount()
    assert UNCLEAN not in saved.log
