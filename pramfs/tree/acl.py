"""POSIX access control lists: keep an ACL and the mode of its file consistent (acl(5)).

The kernel checks permissions against ACLs; the rest is left to the file system. Values are those of the
extended attributes `system.posix_acl_access` and `system.posix_acl_default`.
"""

import struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NAMED = (_USER, _GROUP)
_ONCE = (_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER)
_PERMISSIONS = 7


class Entry(NamedTuple):
    """One entry: its tag (whom it is for), the permissions (rwx), and the id of a named user or group."""

    tag: int
    perm: int
    id: int


def parse(value: bytes) -> list[Entry]:
    """Parse an ACL into its entries. Raises ValueError if it is invalid by the rules of acl_valid(3)."""
    if value[:4] != _VERSION or len(value) % _ENTRY.size != len(_VERSION):
        raise ValueError("not an ACL of version 2")
    entries = [Entry._make(fields) for fields in _ENTRY.iter_unpack(value[4:])]
    tags = [entry.tag for entry in entries]
    if any(entry.perm & ~_PERMISSIONS for entry in entries):
        raise ValueError("impossible permissions")
    if any(tag not in _NAMED and tag not in _ONCE for tag in tags):
        raise ValueError("unknown tag")
    if (
        any(tags.count(tag) != 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
        or tags.count(_MASK) > 1
    ):
        raise ValueError("one entry each for the owner, the group and others is needed")
    if _MASK not in tags and any(tag in tags for tag in _NAMED):
        raise ValueError("named entries need a mask")
    return entries


def is_mode(entries: list[Entry]) -> bool:
    """Return whether the mode alone says the same as the ACL."""
    return all(entry.tag in (_USER_OBJ, _GROUP_OBJ, _OTHER) for entry in entries)


def mode_of(entries: list[Entry]) -> int:
    """Return the permission bits of a file with this ACL: the mask stands in for the group."""
    perms = {entry.tag: entry.perm for entry in entries if entry.tag in _ONCE}
    group = perms.get(_MASK, perms[_GROUP_OBJ])
    return perms[_USER_OBJ] << 6 | group << 3 | perms[_OTHER]


def with_mode(entries: list[Entry], mode: int) -> bytes:
    """Return the ACL, packed, after chmod(2) to `mode`."""
    group_tag = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    perms = {_USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, _OTHER: mode & 7}
    return pack([entry._replace(perm=perms.get(entry.tag, entry.perm)) for entry in entries])


def inherited(default: list[Entry], mode: int) -> list[Entry]:
    """Return the access ACL of a new file with `mode` in a directory with this default ACL."""
    allowed = {
        _USER_OBJ: mode >> 6 & 7,
        _MASK: mode >> 3 & 7,
        _OTHER: mode & 7,
    }
    if not any(entry.tag == _MASK for entry in default):
        allowed[_GROUP_OBJ] = mode >> 3 & 7
    return [
        entry._replace(perm=entry.perm & allowed.get(entry.tag, _PERMISSIONS)) for entry in default
    ]


def pack(entries: list[Entry]) -> bytes:
    """Return the value of the extended attribute."""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)
