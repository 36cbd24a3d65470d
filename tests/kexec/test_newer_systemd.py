"""Images that systemd 261 and newer carry over a kexec, in the descriptor store of pramfs-claim.service."""

import json
from collections.abc import Iterator

import pytest

from tests.kexec.conftest import LIVE_UPDATE_TIMEOUT_S, require_tools
from tests.kexec.recipe import NEWER_DEBIAN
from tests.kexec.session import MOUNTPOINT, LiveSession
from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(LIVE_UPDATE_TIMEOUT_S)

LOAD = f"pramfs kexec --load-only {LiveSession.image}"
STORED = "systemctl show --property=NFileDescriptorStore --value pramfs-claim.service"
TOLD = "handed:   kept by systemd, too, for pramfs-claim.service"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine with systemd, and an image in /dev/shm that fstab mounts."""
    require_tools()
    with Machine(NEWER_DEBIAN.prepare(), tmp_path_factory.mktemp("systemd")) as machine:
        machine.boot(f"{LiveSession.command_line} systemd.getty_auto=no first=/opt/live-boot")
        yield machine


def fill(machine: Machine) -> str:
    """Put random bytes into the image, and return their hash. It is not mounted then."""
    machine.run(f"mountpoint -q {MOUNTPOINT} || mount {MOUNTPOINT}")
    machine.run(f"dd if=/dev/urandom of={MOUNTPOINT}/data bs=1M count=8")
    digest = machine.run(f"sha256sum <{MOUNTPOINT}/data")
    machine.run(f"pramfs umount {MOUNTPOINT}")
    return digest


def test_what_is_taken_back_is_in_no_store_any_more(booted: Machine) -> None:
    digest = fill(booted)
    assert TOLD in booted.run(LOAD)
    assert booted.run(STORED) == "1\n"
    booted.run("pramfs kexec --undo")
    assert booted.run(STORED) == "0\n"
    booted.run(f"mount {MOUNTPOINT}")
    assert booted.run(f"sha256sum <{MOUNTPOINT}/data") == digest


def test_an_image_whose_keeper_is_killed_comes_over(booted: Machine) -> None:
    digest = fill(booted)
    assert TOLD in booted.run(LOAD)
    keeper = json.loads(booted.run("cat /run/pramfs-kept/state"))["pid"]
    booted.run(f"kill -KILL {keeper}")
    booted.kexec("systemctl kexec; kill -STOP $PPID; sleep 60")  # no answer of the agent
    assert "clean" in booted.run("journalctl --unit pramfs-claim.service --output cat")
    assert booted.run(f"sha256sum <{MOUNTPOINT}/data") == digest
    assert booted.run(STORED) == "0\n"


def test_the_next_kexec_is_like_the_first(booted: Machine) -> None:
    """With its keeper, and without systemd's part: the session is found by its name."""
    digest = fill(booted)
    assert TOLD in booted.run(LOAD)
    booted.kexec("kexec -e")
    assert "clean" in booted.run("journalctl --unit pramfs-claim.service --output cat")
    booted.run(f"mountpoint -q {MOUNTPOINT} || mount {MOUNTPOINT}")
    assert booted.run(f"sha256sum <{MOUNTPOINT}/data") == digest
