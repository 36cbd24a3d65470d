"""A file system as plain as Python allows: dicts, bytearrays and numbers. What a tree must be like.

Knows no frames, no saves and no times. Errors are OSErrors with the errno that Linux has.
"""

import errno
import os
import stat
from dataclasses import dataclass, field

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
FIXED = IMMUTABLE | APPEND
PAGE = 4096


@dataclass
class Node:
    """An inode of any kind."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int = 1
    refs: int = 0
    data: bytearray = field(default_factory=bytearray)  # of a file
    promised: set[int] = field(default_factory=set)  # pages of a file that have room reserved
    entries: dict[bytes, int] = field(default_factory=dict)  # of a directory
    parent: int = 0  # of a directory
    target: bytes = b""  # of a symbolic link
    rdev: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    flags: int = 0
    unnamed: bool = False  # made without a name

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Reference:
    """All inodes by number; 1 is the root."""

    def __init__(self) -> None:
        root = Node(1, stat.S_IFDIR | 0o755, 0, 0, nlink=2, parent=1)
        self.nodes: dict[int, Node] = {1: root}
        self.next_ino = 2

    def directories(self) -> list[int]:
        return [ino for ino, node in self.nodes.items() if node.is_directory and node.nlink]

    def files(self) -> list[int]:
        """The regular files, including orphan inodes."""
        return [ino for ino, node in self.nodes.items() if stat.S_ISREG(node.mode)]

    def create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, rdev: int, target: bytes
    ) -> None:
        directory = self.nodes[parent]
        self._check_new(directory, name)
        _refuse(directory, IMMUTABLE)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        node = Node(self.next_ino, mode, uid, gid, rdev=rdev, target=target)
        node.flags = directory.flags & (NODUMP | NOATIME)
        self.nodes[node.ino] = node
        self.next_ino += 1
        directory.entries[name] = node.ino
        if node.is_directory:
            node.nlink, node.parent = 2, parent
            directory.nlink += 1

    def create_unnamed(self, parent: int, mode: int, uid: int, gid: int) -> None:
        """Create a file without a name, and open it."""
        self.create(parent, b"unnamed", stat.S_IFREG | mode, uid, gid, 0, b"")
        node = self.nodes[self.nodes[parent].entries.pop(b"unnamed")]
        node.nlink, node.refs, node.unnamed = 0, 1, True

    def link(self, ino: int, parent: int, name: bytes) -> None:
        node = self.nodes[ino]
        if node.is_directory:
            raise _error(errno.EPERM)
        _refuse(node, FIXED)
        if not node.nlink and not node.unnamed:
            raise _error(errno.ENOENT)
        self._check_new(self.nodes[parent], name)
        _refuse(self.nodes[parent], IMMUTABLE)
        node.unnamed = False
        self.nodes[parent].entries[name] = ino
        node.nlink += 1

    def unlink(self, parent: int, name: bytes) -> None:
        node = self._lookup(parent, name)
        _refuse(self.nodes[parent], FIXED)
        _refuse(node, FIXED)
        if node.is_directory:
            raise _error(errno.EISDIR)
        self._remove(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        node = self._lookup(parent, name)
        _refuse(self.nodes[parent], FIXED)
        _refuse(node, FIXED)
        if not node.is_directory:
            raise _error(errno.ENOTDIR)
        if node.entries:
            raise _error(errno.ENOTEMPTY)
        self._remove(parent, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        node = self._lookup(parent, name)
        there = self.nodes[new_parent].entries.get(new_name)
        other = None if there is None else self.nodes[there]
        if flags == EXCHANGE and other is None:
            raise _error(errno.ENOENT)
        if flags == NOREPLACE and other is not None:
            raise _error(errno.EEXIST)
        if other is node and flags != EXCHANGE:
            return
        if self._is_below(new_parent, node) or (
            flags == EXCHANGE and other is not None and self._is_below(parent, other)
        ):
            raise _error(errno.EINVAL)
        _refuse(self.nodes[parent], FIXED)
        _refuse(node, FIXED)
        if other is None:
            self._check_new(self.nodes[new_parent], new_name)
            _refuse(self.nodes[new_parent], IMMUTABLE)
        else:
            _refuse(self.nodes[new_parent], FIXED)
            _refuse(other, FIXED)
            if flags != EXCHANGE:
                self._check_replaceable(node, other)
                self._remove(new_parent, new_name)
        self._place(new_parent, new_name, node)
        if flags == EXCHANGE and other is not None:
            self._place(parent, name, other)
        else:
            del self.nodes[parent].entries[name]
        if flags == WHITEOUT:
            self.create(parent, name, stat.S_IFCHR, 0, 0, 0, b"")
        self._count_directories()

    def write(self, ino: int, offset: int, data: bytes) -> None:
        content, flags = self.nodes[ino].data, self.nodes[ino].flags
        there = content[offset : offset + len(data)]
        appends = offset <= len(content) and data.startswith(bytes(there))
        if flags & IMMUTABLE or (flags & APPEND and not appends):
            raise _error(errno.EPERM)
        if data:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        node, end = self.nodes[ino], offset + length
        _refuse(node, FIXED if mode & ~KEEP_SIZE else IMMUTABLE)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            inside = node.data[offset:end]
            node.data[offset:end] = bytes(len(inside))
        if not mode & KEEP_SIZE:
            node.data.extend(bytes(max(0, end - len(node.data))))
        if mode & PUNCH_HOLE:
            node.promised -= set(range(-(-offset // PAGE), end // PAGE))
        else:
            node.promised |= set(range(offset // PAGE, -(-end // PAGE)))

    def copy_range(self, ino: int, offset: int, target: int, at: int, length: int) -> None:
        data = self.nodes[ino].data[offset : offset + length]
        _refuse(self.nodes[target], FIXED)
        if ino == target and abs(offset - at) < len(data):
            raise _error(errno.EINVAL)
        self.write(target, at, bytes(data))

    def truncate(self, ino: int, size: int) -> None:
        content = self.nodes[ino].data
        _refuse(self.nodes[ino], FIXED)
        if size <= len(content):
            self.nodes[ino].promised -= set(range(-(-size // PAGE), 1000))
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    def chmod(self, ino: int, mode: int) -> None:
        node = self.nodes[ino]
        _refuse(node, FIXED)
        node.mode = stat.S_IFMT(node.mode) | mode

    def chown(self, ino: int, uid: int, gid: int) -> None:
        node = self.nodes[ino]
        _refuse(node, FIXED)
        node.uid, node.gid = uid, gid
        if not node.is_directory:
            node.mode &= ~stat.S_ISUID
            node.mode &= ~stat.S_ISGID if node.mode & stat.S_IXGRP else -1

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        _refuse(self.nodes[ino], FIXED)
        self.nodes[ino].xattrs[name] = value

    def removexattr(self, ino: int, name: bytes) -> None:
        _refuse(self.nodes[ino], FIXED)
        if name not in self.nodes[ino].xattrs:
            raise _error(errno.ENODATA)
        del self.nodes[ino].xattrs[name]

    def close(self, ino: int) -> None:
        node = self.nodes[ino]
        node.refs -= 1
        if not node.refs and not node.nlink:
            del self.nodes[ino]

    # --- helpers ---------------------------------------------------------------------------------

    def _lookup(self, parent: int, name: bytes) -> Node:
        if name not in self.nodes[parent].entries:
            raise _error(errno.ENAMETOOLONG if len(name) > 255 else errno.ENOENT)
        return self.nodes[self.nodes[parent].entries[name]]

    def _check_new(self, directory: Node, name: bytes) -> None:
        if name in directory.entries:
            raise _error(errno.EEXIST)
        if len(name) > 255:
            raise _error(errno.ENAMETOOLONG)

    def _check_replaceable(self, node: Node, other: Node) -> None:
        if other.is_directory and not node.is_directory:
            raise _error(errno.EISDIR)
        if other.entries:
            raise _error(errno.ENOTEMPTY)
        if node.is_directory and not other.is_directory:
            raise _error(errno.ENOTDIR)

    def _is_below(self, ino: int, node: Node) -> bool:
        """Whether `ino` is the directory `node` or lies in it."""
        while ino != node.ino:
            if ino == 1:
                return False
            ino = self.nodes[ino].parent
        return True

    def _place(self, parent: int, name: bytes, node: Node) -> None:
        self.nodes[parent].entries[name] = node.ino
        if node.is_directory:
            node.parent = parent

    def _remove(self, parent: int, name: bytes) -> None:
        node = self.nodes[self.nodes[parent].entries.pop(name)]
        node.nlink = 0 if node.is_directory else node.nlink - 1
        self._count_directories()
        if not node.nlink and not node.refs:
            del self.nodes[node.ino]

    def _count_directories(self) -> None:
        for node in self.nodes.values():
            if node.is_directory and node.nlink:
                children = [self.nodes[ino] for ino in node.entries.values()]
                node.nlink = 2 + sum(child.is_directory for child in children)


def _refuse(node: Node, flags: int) -> None:
    if node.flags & flags:
        raise _error(errno.EPERM)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
