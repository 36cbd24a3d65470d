"""A double of systemd's descriptor store: the socket that it is told things by, and one unit's store."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pramfs.liveupdate import descriptor_store
from pramfs.system import systemd

_BYTES_MAX = 4096


class Systemd:
    """One unit with its properties, and the descriptors that it has put into its store, by name."""

    def __init__(self) -> None:
        self.store: dict[str, int] = {}
        self.attached: list[int] = []
        self.number = 261
        self.properties = {
            "ActiveState": "active",
            "FileDescriptorStorePreserve": "yes",
            "NotifyAccess": "all",
        }

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """What systemctl show prints of the unit."""
        assert unit == descriptor_store.UNIT
        known = {**self.properties, "NFileDescriptorStore": str(len(self.store))}
        return {name: known[name] for name in properties if name in known}

    def version(self) -> int:
        """Which systemd it is."""
        return self.number

    def attach(self, unit: str, pid: int) -> None:
        """Have a process in the unit's control group."""
        assert unit == descriptor_store.UNIT
        self.attached.append(pid)

    def hear(self, message: str, descriptors: list[int]) -> None:
        """Do what a message of the unit asks for."""
        assignments = dict(line.split("=", 1) for line in message.splitlines())
        if "FDSTORE" in assignments:
            (self.store[assignments["FDNAME"]],) = descriptors
        elif "FDSTOREREMOVE" in assignments:
            os.close(self.store.pop(assignments["FDNAME"]))
        else:
            assert assignments == {"BARRIER": "1"}
            for descriptor in descriptors:
                os.close(descriptor)


@contextmanager
def running(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """A systemd that listens, in a thread."""
    double = Systemd()
    monkeypatch.setattr(descriptor_store, "_NOTIFY", place / "notify")
    monkeypatch.setattr(systemd, "show", double.show)
    monkeypatch.setattr(systemd, "version", double.version)
    monkeypatch.setattr(systemd, "attach", double.attach)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(place / "notify"))

        def listen() -> None:
            while True:
                message, descriptors, _, _ = socket.recv_fds(end, _BYTES_MAX, 8)
                if message == b"end":
                    return
                double.hear(message.decode(), descriptors)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield double
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", str(place / "notify"))
            thread.join()
            for descriptor in double.store.values():
                os.close(descriptor)
