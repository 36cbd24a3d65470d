"""An image on a device that several machines reach: one has it, the others are refused until it lets go."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, content_of, wait_until
from tests.support.machines import Machine, boot_id, machines

HELD = ("in use by alpha", "since", "pramfs takeover")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with one disk."""
    with machines(tmp_path, 64 * MIB) as two:
        yield two


def test_another_machine_is_refused_until_it_is_unmounted(two: tuple[Machine, Machine]) -> None:
    alpha, beta = two
    (alpha.mount() / "file").write_bytes(b"1")
    for saved in (False, True):
        if saved:
            alpha.pramfs("save", alpha.root).succeeded()
        beta.pramfs("mount", beta.device, beta.root).refused(MOUNT_FAILED, *HELD)
        beta.pramfs("mount", "-o", "ro", beta.device, beta.root).refused(MOUNT_FAILED, *HELD)
        beta.pramfs("put", beta.device, "node", stdin=b"2").refused(MOUNT_FAILED, *HELD)
        beta.pramfs("free", beta.device).refused(MOUNT_FAILED, *HELD)
        assert "alpha" in beta.pramfs("info", beta.device).succeeded().text
    beta.pramfs("check", beta.device).succeeded()
    assert beta.pramfs("cat", beta.device, "file").succeeded().out == b"1"
    alpha.umount().succeeded()
    assert (beta.mount() / "file").read_bytes() == b"1"
    beta.umount().succeeded()
    beta.pramfs("put", beta.device, "node", stdin=b"2").succeeded()


@pytest.mark.parametrize("changed", [False, True])
def test_a_dead_machine_is_refused_for_until_an_administrator_takes_over(
    two: tuple[Machine, Machine], *, changed: bool
) -> None:
    alpha, beta = two
    (alpha.mount() / "file").write_bytes(b"1")
    alpha.umount().succeeded()
    alpha.mount()
    if changed:
        (alpha.tree / "unsaved").write_bytes(b"2")
    alpha.kill()
    beta.pramfs("mount", beta.device, beta.root).refused(MOUNT_FAILED, *HELD)
    told = beta.pramfs("takeover", beta.device).succeeded().text
    assert "taken over from alpha" in told
    assert "nothing was changed" in beta.pramfs("takeover", beta.device).succeeded().text
    tree = beta.mount()
    assert sorted(path.name for path in tree.iterdir()) == ["file"]
    # Nothing is said to be lost where nothing was changed.
    assert ("ended without a final save" in beta.log) is changed
    alpha.pramfs("mount", alpha.device, alpha.root).refused(MOUNT_FAILED, "in use by beta")
    beta.umount().succeeded()
    beta.pramfs("check", beta.device).succeeded()


def test_a_machine_that_has_started_anew_goes_on(
    two: tuple[Machine, Machine], tmp_path: Path
) -> None:
    alpha, _ = two
    (alpha.mount() / "file").write_bytes(b"1")
    alpha.pramfs("save", alpha.root).succeeded()
    alpha.kill()
    with Machine("alpha", tmp_path, alpha.device, "a" * 32, boot_id("c")) as again:
        assert (again.mount() / "file").read_bytes() == b"1"
        again.umount().succeeded()


def test_who_was_taken_over_says_so_and_saves_nothing_more(two: tuple[Machine, Machine]) -> None:
    alpha, beta = two
    (alpha.mount() / "file").write_bytes(b"1")
    alpha.pramfs("save", alpha.root).succeeded()
    (alpha.tree / "late").write_bytes(b"2")
    beta.pramfs("takeover", beta.device).succeeded()
    (beta.mount() / "beta").write_bytes(b"3")
    assert "beta" in alpha.pramfs("status", alpha.root).succeeded().text
    taken = ("beta", "has taken", "over", "nothing is saved")
    alpha.pramfs("save", alpha.root).refused(MOUNT_FAILED, *taken)
    alpha.umount().refused(MOUNT_FAILED, *taken)
    beta.umount().succeeded()
    beta.pramfs("check", beta.device).succeeded()
    names = beta.pramfs("ls", beta.device).succeeded().text
    assert "beta" in names
    assert "late" not in names


def test_of_two_that_mount_at_once_one_serves(two: tuple[Machine, Machine]) -> None:
    (two[0].mount() / "file").write_bytes(b"1")
    two[0].umount().succeeded()
    daemons = {machine: machine.start() for machine in two}

    def is_decided() -> bool:
        return all(
            machine.is_mounted or daemon.poll() is not None for machine, daemon in daemons.items()
        )

    wait_until(is_decided, "both to mount or give up")
    serving = [machine for machine, daemon in daemons.items() if _serves(machine, daemon)]
    assert len(serving) <= 1, f"{two[0].log}{two[1].log}"
    for machine in serving:
        machine.umount().succeeded()
    assert two[0].pramfs("cat", two[0].device, "file").succeeded().out == b"1"


def _serves(machine: Machine, daemon: "subprocess.Popen[bytes]") -> bool:
    return machine.is_mounted and daemon.poll() is None


def test_no_machine_sees_what_it_had_cached(two: tuple[Machine, Machine]) -> None:
    """Somebody has the device open all the time, so that its cache is not dropped."""
    alpha, beta = two
    with alpha.device.open("rb") as first, beta.device.open("rb") as second:
        for number in range(4):
            machine = two[number % 2]
            tree = machine.mount()
            assert sorted(path.name for path in tree.iterdir()) == [str(n) for n in range(number)]
            (tree / str(number)).write_bytes(bytes([number]) * MIB)
            machine.umount().succeeded()
            for device in (first, second):
                device.seek(0)
                device.read()
    beta.pramfs("check", beta.device).succeeded()


def test_without_an_id_nobody_is_refused(two: tuple[Machine, Machine], tmp_path: Path) -> None:
    with Machine("nameless", tmp_path, two[0].device, "", boot_id("d")) as nameless:
        (nameless.mount() / "file").write_bytes(b"1")
        nameless.pramfs("save", nameless.root).succeeded()
        nameless.kill()
    two[1].mount()
    two[1].umount().succeeded()


def test_a_file_is_not_written_to_at_mount(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    before = content_of(volume.image)
    volume.mount()
    assert content_of(volume.image) == before
    volume.umount()
