"""A client understands the status of a daemon of another version, or says in a line why it does not."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.control import client, run_state
from pramfs.control.control_xattrs import ControlAttributes, may_control
from pramfs.control.dedup_report import DedupReport
from pramfs.control.status import MountStatus, parse_status
from pramfs.errors import PramError
from pramfs.storage.frames import FrameCounts, FrameTable
from pramfs.system.mountinfo import Mount

STATUS = MountStatus(
    pid=1,
    pid_namespace=4026531836,
    identity="19-6",
    image="/dev/shm/a \udcff",
    mountpoint="/mnt",
    name="pramfs",
    options=("size=1G", "noatime"),
    run="00ff",
    read_only=False,
    generation=7,
    pfn="1000",
    saved_ns=10**18,
    changed=True,
    unpublished_pages=3,
    unwritten_pages=2,
    suspect=True,
    error="save failed: for a reason",
    inodes=5,
    frames=FrameCounts(16, 4, 6, 2, 4),
    state="/run/pramfs/a.state",
    log="/run/pramfs/a.log",
)
TOLD = json.loads(STATUS.to_json())


def told(**changes: object) -> bytes:
    return json.dumps(TOLD | changes).encode()


def told_without(*keys: str) -> bytes:
    return json.dumps({key: value for key, value in TOLD.items() if key not in keys}).encode()


@pytest.fixture
def told_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], MountStatus]:
    """Reads the status of a mount whose daemon answers these bytes."""
    mount = Mount(
        id=2, parent=1, device="0:99", mountpoint=Path("/mnt"), part="/", fstype="fuse.pramfs",
        image="/image", user=os.geteuid(), group=0, shared=True,
    )  # fmt: skip

    def read(answer: bytes) -> MountStatus:
        monkeypatch.setattr(client, "require_alive", lambda path: mount)
        monkeypatch.setattr(client, "views_of", lambda device: [mount])
        monkeypatch.setattr(os, "getxattr", lambda path, name: answer)
        return client.read_status(Path("/mnt"))

    return read


def test_the_status_arrives_as_it_was_sent() -> None:
    assert parse_status(STATUS.to_json()) == STATUS


def test_keys_of_a_newer_daemon_are_ignored() -> None:
    frames = TOLD["frames"] | {"lost": 1}
    assert parse_status(told(frames=frames, mood={"is": ["good"]})) == STATUS


def test_an_older_daemon_that_lacks_what_is_optional_is_understood() -> None:
    status = parse_status(told_without("pid_namespace", "identity", "options", "suspect", "log"))
    assert (status.pid_namespace, status.identity) == (0, "")
    assert (status.options, status.suspect, status.log) == ((), False, "")
    assert status.frames == STATUS.frames


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (told_without("generation"), "'generation' is missing"),
        (told(pid="1"), "'pid' has another type"),
        (told(pid=True), "'pid' has another type"),
        (told(changed=None), "'changed' has another type"),
        (told(options=["ro", 1]), "'options' has another type"),
        (told(options="ro"), "'options' has another type"),
        (told(frames=[16]), "frames is not an object"),
        (told(frames={"total": 16}), "'used' is missing"),
        (b"[]", "the whole is not an object"),
        (b"[" * 60_000, "nested too deeply"),
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode"),
    ],
)
def test_what_is_no_status_is_refused_in_one_line(
    told_at: Callable[[bytes], MountStatus], answer: bytes, why: str
) -> None:
    with pytest.raises(PramError) as caught:
        told_at(answer)
    words = str(caught.value)
    assert words.startswith("/mnt: cannot read the status of the daemon: ")
    assert why in words
    assert words.endswith("; use the version of pramfs that mounted it")
    assert "\n" not in words


def test_every_control_attribute_is_part_of_the_status() -> None:
    attributes = ControlAttributes(lambda: STATUS, DedupReport, FrameTable(16))
    assert parse_status(attributes.read(b"user.pramfs.status")) == STATUS
    plain = {
        name: attributes.read(b"user.pramfs." + name) for name in (b"pid", b"generation", b"pfn")
    }
    assert plain == {b"pid": b"1", b"generation": b"7", b"pfn": b"1000"}
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        attributes.read(b"user.pramfs.inodes")


def test_root_the_owner_and_the_user_of_the_daemon_may_publish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert [uid for uid in (0, 1000, 1001, 1002) if may_control(uid, owner=1000)] == [0, 1000, 1001]


def test_a_newer_daemon_leaves_a_state_that_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    state = run_state.State("00", "/image", 1, run_state.SAVED, 1)
    directory = run_state.RunDirectory(tmp_path)
    directory.write_state(path.name, state)
    directory.close()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert run_state.read_state(path) == state
