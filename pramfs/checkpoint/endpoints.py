"""The local ends of the TCP connections of processes, from /proc."""

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_SOCKET = re.compile(r"^socket:\[(\d+)\]$")

Endpoint = tuple[str, int]  # address and port; the address is "" where any will do


def of_processes(pids: Iterable[int]) -> list[Endpoint]:
    """Return the local ends of TCP sockets that listen or are connected, of processes in this network."""
    inodes = set[str]()
    for pid in pids:
        inodes |= _sockets_of(pid)
    found = set[Endpoint]()
    for table in ("tcp", "tcp6"):
        path = _PROC / "self/net" / table
        if path.exists():
            found |= parse(path.read_text(), inodes)
    return sorted(found)


def parse(table: str, inodes: set[str]) -> set[Endpoint]:
    """Return the local ends in a table such as /proc/net/tcp, of the sockets with these inodes."""
    found = set[Endpoint]()
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[9] in inodes:
            address, port = words[1].split(":")
            found.add((_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """Return an address that the kernel writes as words in its own byte order."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    address = ipaddress.ip_address(raw)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return "" if address.is_unspecified else str(address)


def _sockets_of(pid: int) -> set[str]:
    inodes = set[str]()
    try:
        for entry in os.scandir(_PROC / str(pid) / "fd"):
            match = _SOCKET.match(os.readlink(entry.path))
            if match is not None:
                inodes.add(match[1])
    except OSError:
        pass  # it has ended, or closed a file meanwhile
    return inodes
