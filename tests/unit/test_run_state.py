"""The run directory: which log and state belong to which image, and when they are removed."""

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.control import run_state
from pramfs.control.run_state import RunDirectory
from pramfs.errors import SystemFault
from pramfs.storage.image import Image, open_image

UUID = bytes(range(16))
NOBODYS_PID = 1 << 22  # one more than the kernel gives out


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    (tmp_path / "run").mkdir()
    directory = RunDirectory(tmp_path / "run")
    yield directory
    directory.close()


def image_at(path: Path) -> Image:
    path.touch()
    return open_image(path, writable=False)


def leave(directory: RunDirectory, path: Path, pid: int = NOBODYS_PID) -> Path:
    """A log and a state as the run of an image at `path` leaves them; returns the path of the log."""
    with image_at(path) as image:
        state = run_state.State("00", str(path), pid, run_state.SAVED, 1)
        directory.write_state(run_state.state_name(image, UUID), state)
        log = directory.path / run_state.log_name(image, UUID)
    log.write_text("saved\n")
    return log


def leave_of_gone_images(directory: RunDirectory, count: int) -> list[Path]:
    """The logs of images that are gone, oldest first."""
    home = directory.path.parent
    logs = [leave(directory, home / f"image {number}") for number in range(count)]
    for age, log in enumerate(reversed(logs)):
        for file in (log, log.with_suffix(".state")):
            os.utime(file, (1000 - age, 1000 - age))
    for number in range(count):
        (home / f"image {number}").unlink()
    return logs


def test_a_copy_of_an_image_has_a_log_and_a_state_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"the same")
    shutil.copy(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("one")
    with image_at(tmp_path / "one") as one, image_at(tmp_path / "two") as two:
        assert run_state.log_name(one, UUID) != run_state.log_name(two, UUID)
        assert run_state.state_name(one, UUID) != run_state.state_name(two, UUID)
        with image_at(tmp_path / "link") as link:
            assert run_state.log_name(one, UUID) == run_state.log_name(link, UUID)
    (tmp_path / "one").rename(tmp_path / "three")
    with image_at(tmp_path / "three") as three:
        assert run_state.log_name(one, UUID) == run_state.log_name(three, UUID)


def test_what_is_left_of_images_that_are_there_stays(
    directory: RunDirectory, tmp_path: Path
) -> None:
    logs = [
        leave(directory, tmp_path / f"image {number}") for number in range(run_state.GONE_KEPT + 5)
    ]
    directory.prune()
    assert sorted(directory.path.glob("*.log")) == sorted(logs)
    assert len(list(directory.path.glob("*.state"))) == len(logs)


def test_of_images_that_are_gone_the_latest_are_kept(directory: RunDirectory) -> None:
    logs = leave_of_gone_images(directory, run_state.GONE_KEPT + 3)
    directory.prune()
    assert set(directory.path.glob("*.log")) == set(logs[3:])
    assert {path.with_suffix(".log") for path in directory.path.glob("*.state")} == set(logs[3:])


def test_what_a_daemon_uses_stays_though_its_image_is_gone(directory: RunDirectory) -> None:
    logs = leave_of_gone_images(directory, run_state.GONE_KEPT + 3)
    state = run_state.read_state(logs[0].with_suffix(".state"))
    assert state is not None
    name = logs[0].with_suffix(".state").name
    directory.write_state(name, dataclasses.replace(state, pid=os.getpid()))
    os.utime(logs[0].with_suffix(".state"), (1, 1))
    with logs[1].open("rb") as held:  # by a daemon that only reads: it leaves no state
        logs[1].with_suffix(".state").unlink()
        fcntl.flock(held, fcntl.LOCK_SH)
        directory.prune()
    assert set(directory.path.glob("*.log")) == {*logs[:2], *logs[3:]}


def test_another_image_in_the_place_of_the_old_one_keeps_nothing_of_it(
    directory: RunDirectory, tmp_path: Path
) -> None:
    log = leave(directory, tmp_path / "image")
    os.utime(log, (1, 1))
    os.utime(log.with_suffix(".state"), (1, 1))
    leave_of_gone_images(directory, run_state.GONE_KEPT)
    with (tmp_path / "image").open():  # its inode number is not free yet
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(tmp_path / "image")
        directory.prune()
    assert log not in set(directory.path.iterdir())


def test_a_directory_of_somebody_else_or_that_is_gone_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "mine").mkdir()
    tried = [tmp_path / name for name in ("gone/pramfs", "file", "link", "mine", "later")]
    monkeypatch.setattr(run_state, "_directories_to_make", lambda uid: tried)
    directory = run_state.open_run_directory()
    assert directory.path == tmp_path / "mine"
    directory.close()
    monkeypatch.setattr(run_state, "_directories_to_make", lambda uid: tried[:3])
    with pytest.raises(SystemFault, match="file: cannot make the run directory"):
        run_state.open_run_directory()


def test_what_is_left_goes_into_the_directory_that_was_opened(
    directory: RunDirectory, tmp_path: Path
) -> None:
    """Whatever is mounted over it since, or has taken its name."""
    directory.path.rename(tmp_path / "covered")
    directory.path.mkdir()
    leave(directory, tmp_path / "image").unlink()
    directory.prune()
    assert not list(directory.path.iterdir())
    assert len(list((tmp_path / "covered").iterdir())) == 1
