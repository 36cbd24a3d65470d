"""Images that systemd carries over a kexec in its descriptor store, with doubles of it and of the kernel."""

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.control import kept
from pramfs.liveupdate import descriptor_store, keeper
from pramfs.liveupdate.handover import SESSION, HandOver
from pramfs.offline import kexec
from pramfs.storage.image import Image, open_image
from pramfs.system import luo
from tests.support import systemd_double
from tests.support.image_files import make_image
from tests.support.luo_double import LiveUpdate
from tests.support.systemd_double import Systemd

TOLD = "kept by systemd, too, for pramfs-claim.service"


@pytest.fixture
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="pramfs-test.", dir="/dev/shm") as directory:
        path = make_image(Path(directory, "image"), frames=4096)
        with open_image(path, writable=True) as image:
            assert image.try_lock()
            yield image


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveUpdate:
    monkeypatch.setattr(kept, "DIRECTORY", tmp_path / "kept")
    monkeypatch.setattr(kept, "_COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("quiet kho=on liveupdate=on\n")
    monkeypatch.setattr(kexec, "_LOADED", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(keeper, "require_single_thread", lambda: None)
    return LiveUpdate(tmp_path, monkeypatch)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    with systemd_double.running(tmp_path, monkeypatch) as systemd:
        yield systemd


def retrieved_by_systemd(kernel: LiveUpdate, image: Image) -> int:
    """Hand the image over to the next kernel, start that, and return the session that systemd has there."""
    HandOver([image]).take()
    image.path.unlink()
    kernel.kexec()
    session = luo.retrieve_session(SESSION)
    assert session is not None
    return session


def give(session: int, monkeypatch: pytest.MonkeyPatch, *, pid: int) -> None:
    """Have systemd start this process as the unit that it keeps the session for."""
    monkeypatch.setattr(descriptor_store, "_FIRST_FD", session - 1)
    monkeypatch.setenv("LISTEN_PID", str(pid))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", f"another:{descriptor_store.NAME}")


def test_what_is_handed_over_is_kept_by_systemd_until_it_is_taken_back(
    kernel: LiveUpdate, systemd: Systemd, image: Image
) -> None:
    hand_over = HandOver([image])
    assert hand_over.take()[-1] == TOLD
    assert list(systemd.store) == [descriptor_store.NAME]
    assert systemd.attached == [os.getpid()]
    hand_over.take_back()
    assert not systemd.store
    assert image.path.stat().st_size == 4096 << 12


@pytest.mark.parametrize(
    "wrong",
    [{"ActiveState": "inactive"}, {"FileDescriptorStorePreserve": "no"}, {"NotifyAccess": "none"}],
)
def test_a_unit_that_cannot_keep_it_is_left_alone(
    kernel: LiveUpdate, systemd: Systemd, image: Image, wrong: dict[str, str]
) -> None:
    systemd.properties |= wrong
    hand_over = HandOver([image])
    assert TOLD not in hand_over.take()
    assert not systemd.store
    assert not systemd.attached
    hand_over.take_back()


def test_a_systemd_that_carries_nothing_over_is_not_said_to(
    kernel: LiveUpdate, systemd: Systemd, image: Image
) -> None:
    """From 254 on it knows what the unit asks for; from 261 on that is worth something."""
    systemd.number = 260
    hand_over = HandOver([image])
    assert TOLD not in hand_over.take()
    assert not systemd.store
    hand_over.take_back()


def test_a_systemd_that_does_not_listen_is_no_hindrance(
    kernel: LiveUpdate, systemd: Systemd, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_store, "_NOTIFY", image.path.with_name("nobody"))
    hand_over = HandOver([image])
    assert TOLD not in hand_over.take()
    hand_over.take_back()


def test_a_copied_image_is_taken_back_although_systemd_still_has_the_session(
    kernel: LiveUpdate, systemd: Systemd, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That fixes the size of the copy, in which no hole can be made then."""
    hand_over = HandOver([image])
    hand_over.take()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(descriptor_store, "remove", lambda: None)
    monkeypatch.setattr("pramfs.liveupdate.transfer._remove", refuse)
    hand_over.take_back()
    assert image.path.stat().st_size == 4096 << 12


def test_a_claim_takes_what_systemd_gives_it_and_leaves_nothing_in_the_store(
    kernel: LiveUpdate,
    systemd: Systemd,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(retrieved_by_systemd(kernel, image), monkeypatch, pid=os.getpid())
    assert main(["claim"]) == 0
    assert capsys.readouterr().out == f"{image.path}: clean\n"
    assert not systemd.store
    assert "LISTEN_FDS" not in os.environ  # nobody else takes it for theirs


def test_a_claim_by_hand_says_where_the_images_are(
    kernel: LiveUpdate,
    systemd: Systemd,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(retrieved_by_systemd(kernel, image), monkeypatch, pid=os.getppid())
    assert main(["claim"]) == 32
    told = capsys.readouterr().err
    assert "first: systemctl restart pramfs-claim.service" in told
    assert list(systemd.store) == [descriptor_store.NAME]


def test_a_claim_beside_another_leaves_what_systemd_has(
    kernel: LiveUpdate,
    systemd: Systemd,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other one has started since this one has looked, and will get nothing."""
    give(os.dup(retrieved_by_systemd(kernel, image)), monkeypatch, pid=os.getpid())
    monkeypatch.setattr(kept, "_LOCK_TRIES", 1)
    real, looks = kept.is_kept, itertools.count()
    monkeypatch.setattr(kept, "is_kept", lambda: bool(next(looks)) and real())
    lock = kept.try_to_lock()
    assert lock is not None
    timer = threading.Timer(1, os.close, [lock])
    timer.start()
    assert main(["claim"]) == 32
    timer.join()
    assert "first: systemctl restart pramfs-claim.service" in capsys.readouterr().err
    assert list(systemd.store) == [descriptor_store.NAME]
