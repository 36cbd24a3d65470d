"""A double of /dev/liveupdate: sessions and memory files that outlive a kexec, in this process.

Only for processes that fork from this one does it last, and what they do to it stays theirs.
"""

import errno
import os
from pathlib import Path

import pytest

from pramfs.system import luo


class LiveUpdate:
    """The kernel's side of the ioctls. `fail` makes one of them refuse."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fail: dict[int, int] = {}
        self._outgoing: dict[str, dict[int, int]] = {}
        self._incoming: dict[str, dict[int, int]] = {}
        self._retrieved: set[str] = set()
        self._names: dict[int, str] = {}  # of sessions by inode
        device = place / "liveupdate"
        device.touch()
        monkeypatch.setattr(luo, "DEVICE", device)
        monkeypatch.setattr("pramfs.system.luo.fcntl.ioctl", self._ioctl)

    def fail(self, request: int, number: int) -> None:
        """Let each call of this kind end with that errno."""
        self._fail[request] = number

    def kexec(self) -> None:
        """Go on in the next kernel: what was handed over has come over."""
        self._incoming, self._outgoing = self._outgoing, {}
        self._retrieved.clear()

    def _ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        if request in self._fail:
            raise OSError(self._fail[request], os.strerror(self._fail[request]))
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
        if request == luo._PRESERVE_FD:
            self._outgoing[name][token] = os.dup(file)
        else:
            argument[:] = luo._FILE.pack(size, os.dup(self._incoming[name][token]), token)

    def _session(self, name: str, *, create: bool) -> int:
        if create:
            if name in self._outgoing:
                raise OSError(errno.EEXIST, "")
            self._outgoing[name] = {}
        elif name not in self._incoming:
            raise OSError(errno.ENOENT, "")
        elif name in self._retrieved:
            raise OSError(errno.EINVAL, "")
        else:
            self._retrieved.add(name)
        descriptor = os.memfd_create(name)
        self._names[os.fstat(descriptor).st_ino] = name
        return descriptor
