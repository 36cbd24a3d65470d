"""The run directory: which log and state belong to which image, and when they are removed."""

import dataclasses
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from pramfs.control import run_state
from pramfs.storage.image import Image, open_image

UUID = bytes(range(16))
NOBODYS_PID = 1 << 22  # one more than the kernel gives out


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    monkeypatch.setattr(run_state, "run_directory", lambda: directory)
    return directory


def image_at(path: Path) -> Image:
    path.touch()
    return open_image(path, writable=False)


def leave(path: Path, pid: int = NOBODYS_PID) -> Path:
    """A log and a state as the run of an image at `path` leaves them; returns the path of the log."""
    with image_at(path) as image:
        state = run_state.State("00", str(path), pid, run_state.SAVED, 1)
        run_state.write_state(run_state.state_path(image, UUID), state)
        log = run_state.log_path(image, UUID)
    log.write_text("saved\n")
    return log


def leave_of_gone_images(directory: Path, count: int) -> list[Path]:
    """The logs of images that are gone, oldest first."""
    logs = [leave(directory.parent / f"image {number}") for number in range(count)]
    for age, log in enumerate(reversed(logs)):
        for file in (log, log.with_suffix(".state")):
            os.utime(file, (1000 - age, 1000 - age))
    for number in range(count):
        (directory.parent / f"image {number}").unlink()
    return logs


def test_a_copy_of_an_image_has_a_log_and_a_state_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"the same")
    shutil.copy(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("one")
    with image_at(tmp_path / "one") as one, image_at(tmp_path / "two") as two:
        assert run_state.log_path(one, UUID) != run_state.log_path(two, UUID)
        assert run_state.state_path(one, UUID) != run_state.state_path(two, UUID)
        with image_at(tmp_path / "link") as link:
            assert run_state.log_path(one, UUID) == run_state.log_path(link, UUID)
    (tmp_path / "one").rename(tmp_path / "three")
    with image_at(tmp_path / "three") as three:
        assert run_state.log_path(one, UUID) == run_state.log_path(three, UUID)


def test_what_is_left_of_images_that_are_there_stays(directory: Path, tmp_path: Path) -> None:
    logs = [leave(tmp_path / f"image {number}") for number in range(run_state.GONE_KEPT + 5)]
    run_state.prune()
    assert sorted(directory.glob("*.log")) == sorted(logs)
    assert len(list(directory.glob("*.state"))) == len(logs)


def test_of_images_that_are_gone_the_latest_are_kept(directory: Path) -> None:
    logs = leave_of_gone_images(directory, run_state.GONE_KEPT + 3)
    run_state.prune()
    assert set(directory.glob("*.log")) == set(logs[3:])
    assert {path.with_suffix(".log") for path in directory.glob("*.state")} == set(logs[3:])


def test_what_a_daemon_uses_stays_though_its_image_is_gone(directory: Path) -> None:
    logs = leave_of_gone_images(directory, run_state.GONE_KEPT + 3)
    state = run_state.read_state(logs[0].with_suffix(".state"))
    assert state is not None
    run_state.write_state(
        logs[0].with_suffix(".state"), dataclasses.replace(state, pid=os.getpid())
    )
    os.utime(logs[0].with_suffix(".state"), (1, 1))
    with logs[1].open("rb") as held:  # by a daemon that only reads: it leaves no state
        logs[1].with_suffix(".state").unlink()
        fcntl.flock(held, fcntl.LOCK_SH)
        run_state.prune()
    assert set(directory.glob("*.log")) == {*logs[:2], *logs[3:]}


def test_another_image_in_the_place_of_the_old_one_keeps_nothing_of_it(
    directory: Path, tmp_path: Path
) -> None:
    log = leave(tmp_path / "image")
    os.utime(log, (1, 1))
    os.utime(log.with_suffix(".state"), (1, 1))
    leave_of_gone_images(directory, run_state.GONE_KEPT)
    with (tmp_path / "image").open():  # its inode number is not free yet
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(tmp_path / "image")
        run_state.prune()
    assert log not in set(directory.iterdir())
