"""Copy files out of an image into a directory, with all attributes that can be set: not birth times."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import PramError, posix_error, words_of
from pramfs.offline.paths import Entry
from pramfs.offline.reader import TreeReader, damage_lines, refuse_damaged
from pramfs.offline.scan import file_name
from pramfs.storage.image import write_all
from pramfs.system.inode_flags import add_flags
from pramfs.tree.file_flags import FIXED
from pramfs.tree.inodes import Directory, File, Inode, Special, Symlink


@dataclass(slots=True)
class Extracted:
    """The result of an extraction: names created, names left out with reasons, attributes not set."""

    names: int
    left_out: list[str]
    not_set: dict[str, int]  # reason -> how often
    flags_not_set: int  # files that lack flags of chattr(1)
    flags_refused: str  # why: what the system said to the first of them


def extract(
    reader: TreeReader, paths: Sequence[str], directory: Path, *, recover: bool = False
) -> Extracted:
    """Copy the trees at `paths` (none: everything), under the same paths, to a new or empty directory.

    Raises DamagedTree, and creates nothing, if a file in them is damaged; with `recover`, damaged files are
    left out instead. Raises PramError if the directory is not empty or cannot be created.
    """
    chosen = _chosen(reader, paths)
    damaged = reader.damaged(chosen)
    refuse_damaged(reader, {} if recover else damaged)
    _require_empty(directory)
    extractor = _Extractor(reader, os.fsencode(directory))
    extractor.left_out += damage_lines(damaged)
    for entry in chosen:
        if entry.path not in damaged:
            extractor.make(entry)
    extractor.finish()
    return Extracted(
        extractor.names,
        extractor.left_out,
        extractor.not_set,
        extractor.flags_not_set,
        extractor.flags_refused,
    )


class _Extractor:
    """Creates files in a directory that was empty, so that everything in it comes from here."""

    def __init__(self, reader: TreeReader, top: bytes) -> None:
        self.names = 0
        self.left_out: list[str] = []
        self.not_set: dict[str, int] = {}
        self.flags_not_set = 0
        self.flags_refused = ""
        self._reader = reader
        self._top = top
        self._made: dict[Inode, bytes] = {}  # inode -> its first path
        self._directories: list[tuple[bytes, Directory]] = []

    def make(self, entry: Entry) -> None:
        path = os.path.join(self._top, entry.path) if entry.path else self._top  # noqa: PTH118 - bytes
        inode = entry.inode
        try:
            if inode in self._made:
                os.link(self._made[inode], path, follow_symlinks=False)
            elif isinstance(inode, Directory):
                if entry.path:
                    os.mkdir(path, 0o700)  # noqa: PTH102 - bytes
                self._directories.append((path, inode))
            else:
                self._make_new(path, inode)
                self._made[inode] = path
        except (OSError, PramError) as exc:
            self.left_out.append(f"{file_name(entry.path)}: {words_of(exc)}")
        else:
            self.names += 1

    def finish(self) -> None:
        """Set the attributes of directories, last: they may forbid writing, and writing changes times."""
        for path, inode in reversed(self._directories):
            self._set_attributes(path, inode)
        made = [(path, inode.flags) for inode, path in self._made.items()]
        made += [(path, directory.flags) for path, directory in self._directories]
        for path, flags in made:
            if flags:
                self._set_flags(path, flags)

    def _set_flags(self, path: bytes, flags: int) -> None:
        """Set flags of chattr(1): of everything last, as they may forbid all other changes."""
        try:
            if flags & ~FIXED:
                add_flags(path, flags & ~FIXED)
            if flags & FIXED:
                add_flags(path, flags & FIXED)  # which only root may set
        except OSError as exc:
            self.flags_not_set += 1
            self.flags_refused = self.flags_refused or words_of(exc)

    def _make_new(self, path: bytes, inode: Inode) -> None:
        if isinstance(inode, File):
            self._make_file(path, inode)
        elif isinstance(inode, Symlink):
            os.symlink(inode.target, path)  # noqa: PTH211 - bytes
        elif isinstance(inode, Special):
            os.mknod(path, stat.S_IFMT(inode.mode) | 0o600, inode.rdev)
        self._set_attributes(path, inode)

    def _make_file(self, path: bytes, file: File) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, file.length)
            for offset, data in self._reader.contents(file):
                write_all(fd, offset, data)
        except BaseException:
            os.unlink(path)  # noqa: PTH108 - bytes
            raise
        finally:
            os.close(fd)

    def _set_attributes(self, path: bytes, inode: Inode) -> None:
        """Set the attributes: the owner first, as it clears set-id bits and capabilities; times last."""
        self._try("owner", lambda: os.chown(path, inode.uid, inode.gid, follow_symlinks=False))
        for name, value in (inode.xattrs or {}).items():
            self._try_xattr(path, name, value)
        if not isinstance(inode, Symlink):
            self._try("mode", lambda: os.chmod(path, stat.S_IMODE(inode.mode)))  # noqa: PTH101 - bytes
        times = (inode.atime, inode.mtime)
        self._try("times", lambda: os.utime(path, ns=times, follow_symlinks=False))

    def _try_xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        label = f"attribute {file_name(name)}"
        self._try(label, lambda: os.setxattr(path, name, value, follow_symlinks=False))

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as exc:
            reason = f"{what}: {exc.strerror}"
            self.not_set[reason] = self.not_set.get(reason, 0) + 1


def _chosen(reader: TreeReader, paths: Sequence[str]) -> list[Entry]:
    """Return the entries at, below and on the way of the paths; each once, parents first.

    So a path through a symbolic link means the same where it has been extracted.
    """
    chosen: dict[bytes, Entry] = {}
    for path in paths or [""]:
        *way, entry = reader.way(path)
        for part in (*way, *reader.walk(entry)):
            chosen.setdefault(part.path, part)
    return list(chosen.values())


def _require_empty(directory: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if any(directory.iterdir()):
            raise posix_error(errno.ENOTEMPTY)
    except OSError as exc:
        raise PramError(
            f"{directory}: {exc.strerror}; extract makes a new directory, or fills an empty one"
        ) from exc
