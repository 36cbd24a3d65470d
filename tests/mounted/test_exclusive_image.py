"""Two daemons never have one image, by whatever name each knows it."""

import contextlib
import copy
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, Volume, pramfs, wait_until
from tests.mounted.system import loop_device

COMPETITORS = 5


def _by_path(image: Path) -> Path:
    return image


def _by_hard_link(image: Path) -> Path:
    other = image.with_name("hard link")
    os.link(image, other)
    return other


def _by_symbolic_link(image: Path) -> Path:
    other = image.with_name("symbolic link")
    other.symlink_to(image)
    return other


@pytest.mark.parametrize("name", [_by_path, _by_hard_link, _by_symbolic_link])
def test_an_image_in_use_is_refused(volume: Volume, name: Callable[[Path], Path]) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"1")
    _refuse_second(volume, name(volume.image))
    assert (root / "file").read_bytes() == b"1"


def test_a_device_in_use_is_refused_through_another_node(volume: Volume) -> None:
    with loop_device(volume.home / "disk", 64 * MIB) as device, _another_node(device) as other:
        volume.image = device
        volume.mount()
        _refuse_second(volume, other)
        _refuse_second(volume, other, "-o", "ro")
        volume.umount()


def test_a_writer_is_kept_from_a_device_that_is_read_through_another_node(volume: Volume) -> None:
    with loop_device(volume.home / "disk", 64 * MIB) as device, _another_node(device) as other:
        volume.image = device
        volume.mount()
        volume.remount("ro")
        _refuse_second(volume, other)
        volume.umount()


@pytest.mark.parametrize("options", [(), ("ro",)], ids=["", "ro"])
def test_a_file_and_the_loop_device_upon_it_are_one_image(
    volume: Volume, options: tuple[str, ...]
) -> None:
    file = volume.home / "disk"
    with loop_device(file, 64 * MIB) as device:
        for image, other in ((device, file), (file, device)):
            volume.image = image
            volume.mount()
            volume.remount(*options)
            _refuse_second(volume, other)
            volume.umount()


def test_a_writer_is_kept_from_under_a_read_only_mount(volume: Volume) -> None:
    (volume.mount() / "file").write_bytes(b"1")
    volume.umount()
    volume.mount("ro")
    _refuse_second(volume, volume.image)
    again = pramfs("mount", "-o", "ro", volume.image, volume.home / "second")
    again.succeeded()
    assert (volume.home / "second" / "file").read_bytes() == b"1"
    pramfs("umount", volume.home / "second").succeeded()
    volume.umount()


def test_a_reader_is_kept_from_the_image_of_a_writable_mount(volume: Volume) -> None:
    volume.mount()
    _refuse_second(volume, volume.image, "-o", "ro")


def test_of_many_that_start_at_once_one_serves(volume: Volume) -> None:
    volume.mount()
    (volume.root / "file").write_bytes(b"1")
    volume.umount()
    points = [volume.home / f"point{number}" for number in range(COMPETITORS)]
    daemons = []
    for point in points:
        point.mkdir()
        rival = copy.copy(volume)
        rival.root = point
        daemons.append(rival.start_mount())
    wait_until(lambda: sum(daemon.lives for daemon in daemons) == 1, "all but one to give up")
    (winner,) = [number for number, daemon in enumerate(daemons) if daemon.lives]
    found = points[winner] / "file"
    wait_until(found.exists, "the tree")
    assert [point for point in points if (point / "file").exists()] == [points[winner]]
    pramfs("umount", points[winner]).succeeded()
    assert daemons[winner].wait() == 0
    volume.check()


@contextlib.contextmanager
def _another_node(device: Path) -> Iterator[Path]:
    node = Path(f"/dev/pramfs-test-{os.getpid()}")
    os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
    try:
        yield node
    finally:
        node.unlink()


def _refuse_second(volume: Volume, image: Path, *options: str) -> None:
    point = volume.home / "second"
    point.mkdir(exist_ok=True)
    outcome = pramfs("mount", *options, image, point)
    assert outcome.code == 32
    assert "in use" in outcome.err
    assert not point.is_mount()
