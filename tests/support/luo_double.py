"""A double of /dev/liveupdate: sessions and memory files that outlive a kexec, in this process.

Processes that fork from this one have it, too, and retrieve each session once between them.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.system import luo


class LiveUpdate:
    """The kernel's side of the ioctls. `fail` makes one of them refuse."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_retrieval: Callable[[], object] = lambda: None  # of a session
        self._fail: dict[tuple[int, int | None], int] = {}
        self._outgoing: dict[str, dict[int, int]] = {}
        self._incoming: dict[str, dict[int, int]] = {}
        self._place = place
        self._names: dict[int, str] = {}  # of sessions by inode
        device = place / "liveupdate"
        device.touch()
        monkeypatch.setattr(luo, "DEVICE", device)
        monkeypatch.setattr("pramfs.system.luo.fcntl.ioctl", self._ioctl)

    def fail(self, request: int, number: int, *, token: int | None = None) -> None:
        """Let each call of this kind end with that errno, or each for this file."""
        self._fail[request, token] = number

    def file(self, token: int) -> int:
        """What has come over under this number."""
        (files,) = self._incoming.values()
        return files[token]

    def kexec(self) -> None:
        """Go on in the next kernel: what was handed over has come over."""
        self._incoming, self._outgoing = self._outgoing, {}
        for path in self._place.glob("session.*"):
            path.unlink()

    def _ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        self._refuse(request, None)
        if request in (luo._CREATE_SESSION, luo._RETRIEVE_SESSION):
            size, _, padded = luo._SESSION.unpack(argument)
            name = padded.rstrip(b"\0").decode()
            new = self._session(name, create=request == luo._CREATE_SESSION)
            argument[:] = luo._SESSION.pack(size, new, padded)
            return
        name = self._names[os.fstat(descriptor).st_ino]
        if request == luo._FINISH:
            return
        size, file, token = luo._FILE.unpack(argument)
        self._refuse(request, token)
        if request == luo._PRESERVE_FD:
            self._outgoing[name][token] = os.dup(file)
        elif token not in self._incoming[name]:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        else:
            argument[:] = luo._FILE.pack(size, os.dup(self._incoming[name][token]), token)

    def _refuse(self, request: int, token: int | None) -> None:
        number = self._fail.get((request, token))
        if number is not None:
            raise OSError(number, os.strerror(number))

    def _session(self, name: str, *, create: bool) -> int:
        if create:
            if name in self._outgoing:
                raise OSError(errno.EEXIST, "")
            self._outgoing[name] = {}
            descriptor = os.memfd_create(name)
        else:
            descriptor = self._retrieve(name)
        self._names[os.fstat(descriptor).st_ino] = name
        return descriptor

    def _retrieve(self, name: str) -> int:
        """Return the session, which is there until it is closed for the last time."""
        if name not in self._incoming:
            raise OSError(errno.ENOENT, "")
        descriptor = os.open(self._place / f"session.{name}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "") from None
        if os.read(descriptor, 1):
            os.close(descriptor)
            raise OSError(errno.ENOENT, "")
        os.write(descriptor, b"retrieved")
        self.on_retrieval()
        return descriptor
