"""Clone a file or a tree within a running mount: `cp -a`, but all whole pages are shared, and holes stay.

This is a program like any other: it makes the names, and the daemon shares pages where copy_file_range(2)
asks for that. A clone is made under another name, and gets its own when it is complete.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pramfs.errors import PramError, words_of
from pramfs.storage.arena import Progress
from pramfs.system import inode_flags, mountinfo
from pramfs.tree import file_flags

_UNFINISHED = ".pramfs-clone-"
_SET_ID = stat.S_ISUID | stat.S_ISGID
_FREE = file_flags.ALL & ~file_flags.FIXED
_FLAGS = "flags of chattr(1)"
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Cloned:
    """The result: where the clone is, and attributes that could not be set, reason -> how often."""

    path: Path
    not_set: dict[str, int]


class _Item(NamedTuple):
    """What is cloned, what it was when it was looked at, its flags of chattr(1), and its clone."""

    source: Path
    status: os.stat_result
    flags: int
    copy: Path


def clone(source: Path, target: Path, progress: Progress = lambda count: None) -> Cloned:
    """Clone `source` to `target`, or into it if that is a directory, with all attributes but birth times.

    A file that is there is replaced, nothing else is. `progress` is called with numbers of bytes. Raises
    PramError, also if the two are not in the same pramfs mount; there is no clone then.
    """
    for path in (source, target):
        mountinfo.refuse_dead(path)
    try:
        place = _place(source, target)
        _require_one_mount(source, place.parent)
        return clone_here(source, place, progress)
    except OSError as exc:
        mountinfo.refuse_dead(source)  # killed meanwhile
        raise PramError(f"{exc.filename or source}: {words_of(exc)}; nothing was cloned") from exc


def clone_here(source: Path, place: Path, progress: Progress) -> Cloned:
    """Do so at `place`, in any file system that has copy_file_range(2). Raises OSError or PramError."""
    unfinished = place.with_name(_UNFINISHED + secrets.token_hex(8))
    cloner = _Cloner(unfinished, progress)
    try:
        cloner.make(source)
        unfinished.rename(place)
    except BaseException as exc:
        cloner.remove()
        if isinstance(exc, OSError) and exc.filename is not None:
            exc.filename = str(exc.filename).replace(str(unfinished), str(place))
        raise
    cloner.fix(place)
    return Cloned(place, cloner.not_set)


def _place(source: Path, target: Path) -> Path:
    """Return where the clone will be. Raises PramError if that cannot be, OSError."""
    status = source.lstat()
    name = Path(os.path.abspath(source)).name  # noqa: PTH100 - a link at the end is what is cloned
    place = target / name if target.is_dir() else target
    place = place.parent.resolve(strict=True) / place.name
    with contextlib.suppress(FileNotFoundError):
        there = place.lstat()
        if os.path.samestat(status, there):
            raise PramError(f"{source} and {place} are the same file")
        if stat.S_ISDIR(there.st_mode) or stat.S_ISDIR(status.st_mode):
            raise PramError(f"{place}: it is there already")
    if stat.S_ISDIR(status.st_mode) and any(
        os.path.samestat(status, above.stat()) for above in place.parents
    ):
        raise PramError(f"{source}: a directory cannot be cloned into itself")
    return place


def _require_one_mount(source: Path, directory: Path) -> None:
    """Raise PramError unless both are in the same mount of pramfs."""
    device = source.lstat().st_dev
    for path, number in ((source, device), (directory, directory.stat().st_dev)):
        if mountinfo.filesystem_type(number) != mountinfo.FSTYPE:
            raise PramError(f"{path}: not in a mount of pramfs")
    if directory.stat().st_dev != device:
        raise PramError(f"{source} and {directory} are not in the same mount: use cp -a")


class _Cloner:
    """Makes one clone at `top`, and can remove it while it is not complete."""

    def __init__(self, top: Path, progress: Progress) -> None:
        self.not_set: dict[str, int] = {}
        self._top = top
        self._progress = progress
        self._links: dict[int, Path] = {}  # inode number of what has several names -> its clone
        self._directories: list[_Item] = []
        self._fixed: list[_Item] = []  # with flags that forbid changes
        self._inherited = 0  # the flags that everything has when it is made

    def make(self, source: Path) -> None:
        """Clone everything, but not the flags that would forbid to rename it. Raises OSError, PramError."""
        status = source.lstat()
        device = status.st_dev
        with _opened(self._top.parent, os.O_DIRECTORY, self._top.parent.lstat()) as fd:
            self._inherited = _flags_of(fd) & file_flags.INHERITED
        unvisited = [(source, self._top, status)]
        while unvisited:
            source, copy, status = unvisited.pop()
            if status.st_dev != device:
                raise PramError(f"{source}: another file system is mounted there")
            if stat.S_ISDIR(status.st_mode):
                below = self._make_directory(source, copy, status)
                unvisited += [
                    (source / name, copy / name, (source / name).lstat())
                    for name in reversed(below)
                ]
            elif status.st_ino in self._links:
                os.link(self._links[status.st_ino], copy, follow_symlinks=False)
            else:
                self._make_file(source, copy, status)
        # Last, and from below: they may forbid writing, and writing changes times.
        for item in reversed(self._directories):
            self._set_attributes(item)
        for item in self._fixed:
            if item.copy != self._top:
                self._fix(item.copy, item)

    def fix(self, place: Path) -> None:
        """Set the flags of the clone as a whole, which is at `place` now."""
        for item in self._fixed:
            if item.copy == self._top:
                self._fix(place, item)

    def remove(self) -> None:
        """Remove what was made."""
        for item in self._fixed:
            with contextlib.suppress(OSError):
                inode_flags.set_flags(item.copy, 0, file_flags.FIXED)
        for item in self._directories:
            with contextlib.suppress(OSError):
                item.copy.chmod(0o700)
        if self._directories:
            shutil.rmtree(self._top, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._top.unlink()

    def _make_directory(self, source: Path, copy: Path, status: os.stat_result) -> list[str]:
        """Make an empty directory, and return the names of what belongs into it."""
        with _opened(source, os.O_DIRECTORY, status) as fd:
            copy.mkdir(0o700)
            self._directories.append(self._noted(_Item(source, status, _flags_of(fd), copy)))
            return os.listdir(fd)

    def _make_file(self, source: Path, copy: Path, status: os.stat_result) -> None:
        flags = self._inherited
        if stat.S_ISREG(status.st_mode):
            with _opened(source, os.O_NONBLOCK, status) as fd:
                flags = _flags_of(fd)
                self._share(source, fd, status.st_size, copy)
        elif stat.S_ISLNK(status.st_mode):
            copy.symlink_to(source.readlink())
        else:
            os.mknod(copy, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
        if status.st_nlink > 1:
            self._links[status.st_ino] = copy
        self._set_attributes(self._noted(_Item(source, status, flags, copy)))

    def _share(self, source: Path, fd: int, size: int, copy: Path) -> None:
        """Make a regular file with the pages of the one that is open."""
        made = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            left = size
            while left:
                done = os.copy_file_range(fd, made, left)
                if not done:
                    raise PramError(f"{source}: it became shorter meanwhile; nothing was cloned")
                left -= done
                self._progress(done)
        except OSError as exc:
            exc.filename = str(source)
            raise
        finally:
            os.close(made)

    def _noted(self, item: _Item) -> _Item:
        if item.flags & file_flags.FIXED:
            self._fixed.append(item)
        return item

    def _set_attributes(self, item: _Item) -> None:
        """Set the attributes: the owner first, as it clears set-id bits and capabilities; times last."""
        copy, status = item.copy, item.status
        mode = stat.S_IMODE(status.st_mode)
        free = item.flags & _FREE
        if free != self._inherited:
            self._try(_FLAGS, lambda: inode_flags.set_flags(copy, free, _FREE))
        owner = status.st_uid, status.st_gid
        if not self._try("owner", lambda: os.chown(copy, *owner, follow_symlinks=False)):
            mode &= ~_SET_ID  # which were meant for the other owner
        self._set_xattrs(item)
        if not stat.S_ISLNK(status.st_mode):
            self._try("mode", lambda: copy.chmod(mode))
        times = status.st_atime_ns, status.st_mtime_ns
        self._try("times", lambda: os.utime(copy, ns=times, follow_symlinks=False))

    def _set_xattrs(self, item: _Item) -> None:
        """Set the extended attributes, ACLs among them, and remove those that a directory has passed on."""
        names = os.listxattr(item.source, follow_symlinks=False)
        for name in os.listxattr(item.copy, follow_symlinks=False):
            if name not in names:
                os.removexattr(item.copy, name, follow_symlinks=False)
        for name in names:
            value = os.getxattr(item.source, name, follow_symlinks=False)
            self._try_xattr(item.copy, name, value)

    def _try_xattr(self, copy: Path, name: str, value: bytes) -> None:
        label = f"attribute {name}"
        self._try(label, lambda: os.setxattr(copy, name, value, follow_symlinks=False))

    def _fix(self, copy: Path, item: _Item) -> None:
        fixed = item.flags & file_flags.FIXED
        self._try(_FLAGS, lambda: inode_flags.set_flags(copy, fixed, file_flags.FIXED))

    def _try(self, what: str, act: Callable[[], None]) -> bool:
        """Call `act`; count it if that is refused because of who asks, or where. Raises other OSErrors."""
        try:
            act()
        except OSError as exc:
            if exc.errno not in _REFUSALS:
                raise
            reason = f"{what}: {exc.strerror}"
            self.not_set[reason] = self.not_set.get(reason, 0) + 1
            return False
        return True


@contextlib.contextmanager
def _opened(path: Path, flags: int, status: os.stat_result) -> Iterator[int]:
    """Open what was looked at before. Raises PramError if something else is there now."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags)
    try:
        if not os.path.samestat(os.fstat(fd), status):
            raise PramError(f"{path}: it was replaced meanwhile; nothing was cloned")
        yield fd
    finally:
        os.close(fd)


def _flags_of(fd: int) -> int:
    """Return the flags of chattr(1) of an open file, 0 where the file system has none."""
    try:
        return inode_flags.read_flags(fd) & file_flags.ALL
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        return 0
