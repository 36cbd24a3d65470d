"""The backing store of an image: open, create, lock, grow, read, write and sync it, whatever it holds.

Every change of an image goes through the methods `write`, `grow` and `sync`, and through the mapping in
which holes are made. Tests record changes and inject faults there.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import resource
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from pramfs.errors import ImageInUse, NotAnImage, PramError, SystemFault, posix_error
from pramfs.storage.layout import FRAMES_MAX, PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.loop import open_loop_file, sysfs_of
from pramfs.storage.piped import Data, Piped
from pramfs.system.mountinfo import filesystem_type

_SCAN_BYTES = 4 << 20
_MEMORY_FILESYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
_MEMORY_DEVICES = ("pmem", "ram")
_DEVICES = Path("/dev")
# struct flock: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hhqqi4x")

# sync_file_range(2), which Python does not have.
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_NOT_TO_BE_HAD = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ESPIPE}
_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Image:
    """An open image. Frame N is at byte N * 4096; reading frames past the end is an error."""

    def __init__(
        self,
        path: Path,
        fd: int,
        *,
        writable: bool,
        made: bool = False,
        page_bytes: int = mmap.PAGESIZE,
    ) -> None:
        self.path = path
        self.writable = writable
        self.page_bytes = page_bytes  # of the kernel, see holes
        self.made = made  # opening it created it
        self._fd = fd
        self._status = os.fstat(fd)
        self._loop_file = open_loop_file(fd)
        self._guard = self._open_guard()
        self.size_bytes = os.lseek(fd, 0, os.SEEK_END)
        # Whether another machine may have it, too: any disk may be one on the network.
        self.is_shared = self.is_block_device and not self.in_memory()
        self._direct = _open_direct(fd) if self.is_shared else fd  # see `read_anew`

    @property
    def frames(self) -> int:
        """The number of whole frames in the image as it is now."""
        return self.size_bytes >> PAGE_SHIFT

    def length_now(self) -> int:
        """Return the bytes that the file or device has at present, whoever has changed that. Thread-safe.

        Of a loop device those that its file can still hold: the kernel does not tell the device.
        """
        size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        return min(size_bytes, self._loop_file.end_bytes()) if self._loop_file else size_bytes

    def still_holds(self, pfn: int, page: bytes) -> bool:
        """Return whether a frame, which was durable, is still that page, whoever has been there since.

        Of a loop device it is looked up in its file, too, of which the device's cache shows nothing.
        Raises SystemFault. Thread-safe.
        """
        if self.read_anew(pfn << PAGE_SHIFT, PAGE_SIZE) != page:
            return False
        if self._loop_file is None:
            return True
        offset_bytes = self._loop_file.offset_bytes + (pfn << PAGE_SHIFT)
        return self._read(self._loop_file.fd, PAGE_SIZE, offset_bytes) == page

    def fileno(self) -> int:
        """Return the descriptor of the file or device."""
        return self._fd

    @property
    def is_block_device(self) -> bool:
        """Whether the image is a block device, and not a regular file."""
        return stat.S_ISBLK(self._status.st_mode)

    @property
    def owner(self) -> int:
        """The uid that owns the file, or the device node."""
        return self._status.st_uid

    @property
    def identity(self) -> str:
        """A name that no other image has, not even a copy of this one: see `identity_of`."""
        return identity_of(self._status)

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more; of a loop device the file that it lies in."""
        status = os.fstat(self._loop_file.fd if self._loop_file else self._fd)
        return stat.S_ISREG(status.st_mode) and not status.st_nlink

    @property
    def filesystems(self) -> set[int]:
        """The st_dev of the file system it is on; of a loop device also that of the file that it lies in."""
        beneath = self._loop_file.fd if self._loop_file else self._fd
        return {self._status.st_dev, os.fstat(beneath).st_dev}

    @property
    def known_as(self) -> str:
        """The path that the kernel knows the file by, "" if it has been unlinked there."""
        path = os.readlink(f"/proc/self/fd/{self._fd}")
        return "" if path.endswith(" (deleted)") else path

    def in_memory(self) -> bool:
        """Return whether the image is memory already: on tmpfs or ramfs, or a pmem or ram device."""
        return self._is_memory

    @functools.cached_property
    def _is_memory(self) -> bool:
        # Looked up once: saves ask, and /proc may have been unmounted by then.
        if self.is_block_device:
            return _device_name(self._status.st_rdev).startswith(_MEMORY_DEVICES)
        return filesystem_type(self._status.st_dev) in _MEMORY_FILESYSTEMS

    def map(self, frames: int) -> mmap.mmap:
        """Map the first `frames` frames, shared and read-only."""
        return mmap.mmap(self._fd, frames << PAGE_SHIFT, mmap.MAP_SHARED, mmap.PROT_READ)

    def map_for_holes(self, frames: int) -> mmap.mmap | None:
        """Map `frames` frames writable for `Holes`; return None where holes give nothing back."""
        if self.is_block_device or not self.writable:
            return None
        return mmap.mmap(self._fd, frames << PAGE_SHIFT)

    def read(self, pfn: int, count: int = 1) -> bytes:
        """Return the bytes of `count` frames. Raises SystemFault when they cannot all be read."""
        data = self.read_bytes(pfn << PAGE_SHIFT, count << PAGE_SHIFT)
        if len(data) < count << PAGE_SHIFT:
            raise SystemFault(f"{self.path}: pfn:{pfn:x} is past the end of the image")
        return data

    def read_into(self, pfn: int, frames: memoryview) -> None:
        """Read as many frames as there is room for. Raises SystemFault when they cannot all be read."""
        offset_bytes, filled = pfn << PAGE_SHIFT, 0
        while filled < len(frames):
            try:
                count = os.preadv(self._fd, [frames[filled:]], offset_bytes + filled)
            except OSError as exc:
                raise _cannot_read(self.path, offset_bytes, exc) from exc
            if not count:
                raise SystemFault(f"{self.path}: pfn:{pfn:x} is past the end of the image")
            filled += count

    def read_bytes(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Return `size_bytes` bytes from `offset_bytes`, or fewer at the end. Raises SystemFault."""
        return self._read(self._fd, size_bytes, offset_bytes)

    def _read(self, fd: int, size_bytes: int, offset_bytes: int) -> bytes:
        pieces: list[bytes] = []
        while size_bytes:
            try:
                piece = os.pread(fd, size_bytes, offset_bytes)
            except OSError as exc:
                raise _cannot_read(self.path, offset_bytes, exc) from exc
            if not pieces and len(piece) == size_bytes:
                return piece  # as nearly always
            if not piece:
                break
            pieces.append(piece)
            offset_bytes += len(piece)
            size_bytes -= len(piece)
        return b"".join(pieces)

    def read_anew(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Read whole frames as `read_bytes` does, but as they are now if another machine has the image, too.

        Each machine has a page cache of its own. What this one has written and cached is written out first.
        """
        if not self.is_shared:
            return self.read_bytes(offset_bytes, size_bytes)
        if self._direct != self._fd:
            try:
                with mmap.mmap(
                    -1, size_bytes
                ) as buffer:  # begins with a page, as O_DIRECT wants it
                    return buffer[: os.preadv(self._direct, [buffer], offset_bytes)]
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # the device has larger sectors
                    raise _cannot_read(self.path, offset_bytes, exc) from exc
        os.posix_fadvise(self._fd, offset_bytes, size_bytes, os.POSIX_FADV_DONTNEED)
        return self.read_bytes(offset_bytes, size_bytes)

    def forget_cached(self) -> None:
        """Drop what this machine has cached of a device: another one may have written there since."""
        if self.is_shared:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def write(self, offset_bytes: int, data: Data) -> None:
        """Write all of `data`. Raises OSError (ENOSPC, EIO …) when that is not possible."""
        write_all(self._fd, offset_bytes, data)

    def start_write_out(self, pfn: int, frames: int) -> None:
        """Have the kernel write frames that it has cached to the medium; nothing is durable by that.

        Raises OSError when the medium has failed; a sync that follows would not tell of that again.
        """
        self._sync_range(pfn, frames, _WRITE)

    def wait_for_write_out(self, pfn: int, frames: int) -> None:
        """Wait until that is done. Raises OSError when the medium has failed, as `start_write_out`."""
        self._sync_range(pfn, frames, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)

    def _sync_range(self, pfn: int, frames: int, flags: int) -> None:
        if _sync_file_range(self._fd, pfn << PAGE_SHIFT, frames << PAGE_SHIFT, flags):
            number = ctypes.get_errno()
            # A kernel or a sandbox without that call is no failure: a sync writes everything, too.
            if number not in _NOT_TO_BE_HAD:
                raise posix_error(number)

    def sync(self) -> None:
        """Make everything written durable. Raises OSError when the device reports that it is not."""
        os.fdatasync(self._fd)

    def provide(self, pfn: int, frames: int) -> None:
        """Have the file system set space aside for frames, so that a write there cannot fail for that.

        Raises OSError(ENOSPC). A device has its space, and a file system that cannot do it promises nothing.
        """
        if self.is_block_device:
            return
        try:
            os.posix_fallocate(self._fd, pfn << PAGE_SHIFT, frames << PAGE_SHIFT)
        except OSError as exc:
            if exc.errno not in _NOT_TO_BE_HAD | {errno.EOPNOTSUPP, errno.ENODEV}:
                raise

    def grow(self, frames: int) -> None:
        """Make the image at least `frames` frames long; a file stays sparse.

        Raises PramError when a block device is smaller than that.
        """
        size_bytes = frames << PAGE_SHIFT
        if size_bytes <= self.size_bytes:
            return
        if self.is_block_device:
            raise PramError(
                f"{self.path}: the device has {self.size_bytes} bytes, size= asks for {size_bytes}"
            )
        _refuse_beyond_limit(self.path, size_bytes)
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as exc:
            raise PramError(
                f"{self.path}: cannot grow to {size_bytes} bytes: {exc.strerror}"
            ) from exc
        self.size_bytes = size_bytes

    def cut(self, size_bytes: int) -> None:
        """Make a file that was longer before as long as that. Raises OSError."""
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = size_bytes

    def data_ranges(self) -> Iterator[tuple[int, bytes]]:
        """Yield every page that is not in a hole, in pieces: pfn of the first page, bytes of whole pages."""
        end = 0
        while (start := self._next_data(end)) < self.size_bytes:
            # A file system with blocks smaller than a page may have holes within one.
            offset = start & ~(PAGE_SIZE - 1)
            end = (self._next_hole(start) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
            while offset < end:
                data = self.read_bytes(offset, min(_SCAN_BYTES, end - offset))
                if not data:
                    return
                yield offset >> PAGE_SHIFT, data
                offset += len(data)

    def is_blank(self) -> bool:
        """Return whether the image holds nothing but zeros."""
        zeros = bytes(_SCAN_BYTES)  # comparing is some ninety times faster than stripping
        return all(data == zeros[: len(data)] for _, data in self.data_ranges())

    # --- who else is there -----------------------------------------------------------------------

    def try_lock(self, *, shared: bool = False) -> bool:
        """Lock the image for this process and its children; return False if that is not possible.

        It is not while another process has the lock, nor when the file was removed or replaced. A `shared`
        lock, for read-only use, admits other shared ones but no exclusive one.
        """
        try:
            fcntl.flock(self._guard, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # The previous holder may have removed the file, or put another in its place.
        with contextlib.suppress(FileNotFoundError):
            return identity_of(self.path.stat()) == self.identity
        return False

    def is_taken(self) -> bool:
        """Return whether another process has the image locked for itself, under whatever name."""
        try:
            fcntl.flock(self._guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._guard, fcntl.LOCK_UN)
        return False

    def mark_serving(self) -> None:
        """Let other processes find this one with `serving_pid`, until `unmark_serving` or its end."""
        fcntl.lockf(self._guard, fcntl.LOCK_SH, 1)

    def unmark_serving(self) -> None:
        """Undo `mark_serving`: the mount is gone, and only the save is left to do."""
        fcntl.lockf(self._guard, fcntl.LOCK_UN, 1)

    def serving_pid(self) -> int | None:
        """Return the pid of the process that has the image mounted right now, or None."""
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        reply = _FLOCK.unpack(fcntl.fcntl(self._guard, fcntl.F_GETLK, query))
        return None if reply[0] == fcntl.F_UNLCK else reply[4]

    def mark_in_use(self, name: str) -> None:
        """Let others see that something in the image is in use, until this is closed or the process ends."""
        fcntl.fcntl(self._guard, fcntl.F_OFD_SETLK, _lock_of(name, fcntl.F_RDLCK))

    def is_in_use(self, name: str) -> bool:
        """Return whether another one that has the image open has marked that as in use."""
        reply = fcntl.fcntl(self._guard, fcntl.F_OFD_GETLK, _lock_of(name, fcntl.F_WRLCK))
        return bool(_FLOCK.unpack(reply)[0] != fcntl.F_UNLCK)

    def lock_holder(self) -> int | None:
        """Return the pid of the process that holds the lock; None if it is not visible from here."""
        status = os.fstat(self._guard)
        device = status.st_dev
        wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == wanted:
                return int(words[4])
        return None

    def is_same_as(self, other: "Image") -> bool:
        """Return whether a lock on one also locks the other, under whatever names they were opened."""
        return identity_of(os.fstat(self._guard)) == identity_of(os.fstat(other._guard))

    # --- the end ---------------------------------------------------------------------------------

    def unmake(self) -> None:
        """Remove the file if opening it created it: the mount or command that wanted it has failed."""
        if self.made:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the image, which also unlocks it unless something has it mapped. Not to be called twice."""
        beneath = {self._loop_file.fd} if self._loop_file else set()
        for fd in {self._fd, self._guard, self._direct} | beneath:
            os.close(fd)

    def __enter__(self) -> "Image":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _open_guard(self) -> int:
        """Return what is locked in place of a block device, which can have several nodes.

        For a loop device over a whole file that is the file, for others a file in sysfs, and without sysfs
        the node after all.
        """
        if self._loop_file is not None and not self._loop_file.offset_bytes:
            return self._loop_file.fd
        if self.is_block_device:
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                return os.open(sysfs_of(self._status.st_rdev) / "dev", flags)
        return self._fd

    def _next_data(self, offset: int) -> int:
        return self._seek(offset, os.SEEK_DATA, at_end=self.size_bytes, unsupported=offset)

    def _next_hole(self, offset: int) -> int:
        return self._seek(offset, os.SEEK_HOLE, at_end=self.size_bytes, unsupported=self.size_bytes)

    def _seek(self, offset: int, whence: int, *, at_end: int, unsupported: int) -> int:
        if self.is_block_device:
            return unsupported
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return at_end
            if exc.errno == errno.EINVAL:
                return unsupported
            raise


def _lock_of(name: str, kind: int) -> bytes:
    """Return the struct flock for a byte that stands for a name, after that of `mark_serving`."""
    return _FLOCK.pack(kind, os.SEEK_SET, 1 + zlib.crc32(os.fsencode(name)), 1, 0)


def _cannot_read(path: Path, offset_bytes: int, exc: OSError) -> SystemFault:
    return SystemFault(f"{path}: cannot read at pfn:{offset_bytes >> PAGE_SHIFT:x}: {exc.strerror}")


def write_all(fd: int, offset_bytes: int, data: Data) -> None:
    """Write all of `data`. Raises OSError (ENOSPC, EIO …) when that is not possible."""
    if isinstance(data, Piped):
        moved = data.move_to(fd, offset_bytes)
        if moved == len(data):
            return
        offset_bytes, data = offset_bytes + moved, data[moved:].read()  # and see why
    written = os.pwrite(fd, data, offset_bytes)
    while written < len(data):
        # A short write is how a file system says that it is nearly full: ask for the reason.
        more = os.pwrite(fd, memoryview(data)[written:], offset_bytes + written)
        if not more:
            raise posix_error(errno.ENOSPC)
        written += more


def open_image(path: str | os.PathLike[str], *, writable: bool, create: bool = False) -> Image:
    """Open the image at `path`; with `create` make a missing one (empty, mode 0600).

    Raises NotAnImage for a kind of file that cannot be an image, ImageInUse for a block device that is
    mounted or claimed, and PramError when the system refuses to open it.
    """
    path = Path(path)
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        if create and not path.exists():
            return _create(path)
        if writable and path.is_block_device():
            # O_EXCL claims the device in the kernel, through whichever node it was opened.
            flags |= os.O_EXCL
        fd = os.open(path, flags)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise ImageInUse(path, "a mount or another program") from exc
        raise PramError(f"{path}: cannot open the image: {exc.strerror}") from exc
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise NotAnImage(path, "neither a regular file nor a block device")
    if writable and stat.S_ISBLK(mode):
        # What is cached of a device is there for all: leave nothing of others to be written out later.
        with contextlib.suppress(OSError):
            os.fdatasync(fd)
    image = Image(path, fd, writable=writable)
    if image.frames > FRAMES_MAX:
        image.close()
        raise NotAnImage(path, f"more than {FRAMES_MAX} frames")
    if writable and not image.is_block_device:
        try:
            _refuse_beyond_limit(path, image.size_bytes)
        except PramError:
            image.close()
            raise
    return image


def _refuse_beyond_limit(path: Path, size_bytes: int) -> None:
    """Raise PramError when this process may not write to the end of a file of that size."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and size_bytes > limit:
        raise PramError(
            f"{path}: needs {size_bytes} bytes, and no file may be larger than {limit} bytes here; "
            "raise that limit (ulimit -f, LimitFSIZE=) or give a smaller size="
        )


def _create(path: Path) -> Image:
    if path.absolute().parent == _DEVICES:
        # A file there would be in memory that is lost at a restart, yet look like the device.
        raise PramError(
            f"{path}: no such device; a pmem device needs a kernel booted with memmap=SIZE!START, "
            "and the modules nd_e820 and nd_pmem"
        )
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return Image(path, fd, writable=True, made=True)


def _open_direct(fd: int) -> int:
    """Open a device once more, past the page cache; return `fd` where that is not possible."""
    flags = os.O_RDONLY | os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        return os.open(f"/proc/self/fd/{fd}", flags)
    return fd


def identity_of(status: os.stat_result) -> str:
    """Return the identity of an image: "DEVICE-INODE" of a file, or the device number, hexadecimal."""
    if stat.S_ISBLK(status.st_mode):
        return f"{status.st_rdev:x}"
    return f"{status.st_dev:x}-{status.st_ino:x}"


def _device_name(device: int) -> str:
    return sysfs_of(device).resolve().name
