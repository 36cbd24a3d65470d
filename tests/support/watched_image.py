"""Images in memory that are watched: every write is recorded, checked, and can be made to fail.

An image here is a memfd. It sees what an image file sees (holes, mappings, punches), costs nothing to sync,
and is gone with its last descriptor.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pramfs.pram.pram import Pram
from pramfs.storage.holes import Holes
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE, SUPER_MAGIC
from pramfs.storage.piped import Data, Piped
from pramfs.storage.regions import Region, Regions
from tests.support import image_audit


class Write(NamedTuple):
    """Bytes on their way into the image, at an offset in bytes."""

    offset: int
    data: bytes


class Punch(NamedTuple):
    """Frames that become a hole."""

    pfn: int
    frames: int


class Sync(NamedTuple):
    """What was written before is durable now."""


class Grow(NamedTuple):
    """The image gets longer."""

    frames: int


Step = Write | Punch | Sync | Grow


class WatchedImage(Image):
    """An image that keeps a journal, and refuses writes to frames of the save in force.

    With `fail_at` = N the write or sync number N from then on, and all after it, raise `error`, and so do
    punches after it; of a write that fails the first `torn_bytes` bytes reach the image.
    """

    def __init__(self, fd: int, *, writable: bool = True) -> None:
        super().__init__(Path("/memory/pram"), fd, writable=writable, page_bytes=_kernel.page_bytes)
        self.journal: list[Step] = []
        self.guarded = True
        self.fail_at: int | None = None
        self.error = errno.EIO
        self.torn_bytes = 0
        self._steps = 0
        self._durable: set[int] | None = None  # frames of the save in force, None: not looked up
        self._newer: set[int] = set()  # those of a save that may be in force, until it is durable

    def reopen(self, *, writable: bool = True) -> "WatchedImage":
        """Another open image on the same frames, with no faults set."""
        return WatchedImage(os.dup(self._fd), writable=writable)

    def content(self) -> bytes:
        return self.read_bytes(0, self.size_bytes)

    def write(self, offset_bytes: int, data: Data) -> None:
        if isinstance(data, Piped):
            self._write_piped(offset_bytes, data)
            return
        piece = bytes(data)
        is_super = len(piece) == PAGE_SIZE and piece[:4] == SUPER_MAGIC.to_bytes(4, "little")
        first, last = offset_bytes >> PAGE_SHIFT, (offset_bytes + len(piece) - 1) >> PAGE_SHIFT
        if is_super:
            self._check_fallback(first)
        else:
            self._check(set(range(first, last + 1)))
        failing = self._must_fail()
        landing = piece[: self.torn_bytes] if failing else piece
        self.journal.append(Write(offset_bytes, landing))
        super().write(offset_bytes, landing)
        if is_super and self.guarded:
            self._newer = image_audit.frames_in_force(self)
        if failing:
            raise OSError(self.error, os.strerror(self.error))

    def _write_piped(self, offset_bytes: int, data: Piped) -> None:
        first, last = offset_bytes >> PAGE_SHIFT, (offset_bytes + len(data) - 1) >> PAGE_SHIFT
        self._check(set(range(first, last + 1)))
        if self._must_fail():
            raise OSError(self.error, os.strerror(self.error))
        super().write(offset_bytes, data)
        self.journal.append(Write(offset_bytes, self.read_bytes(offset_bytes, len(data))))

    def sync(self) -> None:
        if self._must_fail():
            raise OSError(self.error, os.strerror(self.error))
        self.journal.append(Sync())
        if self._newer:
            self._durable, self._newer = self._newer, set()

    def grow(self, frames: int) -> None:
        if frames > self.frames:
            self.journal.append(Grow(frames))
        super().grow(frames)

    def map_for_holes(self, frames: int) -> mmap.mmap | None:
        if not self.writable:
            return None
        mapping = _WatchedMap(self._fd, frames << PAGE_SHIFT)
        mapping.image = self
        return mapping

    def note_punch(self, pfn: int, frames: int) -> None:
        """Record a punch. Raises OSError after a step that has failed."""
        if self.fail_at is not None and self._steps > self.fail_at:
            raise OSError(self.error, os.strerror(self.error))
        self._check(set(range(pfn, pfn + frames)))
        self.journal.append(Punch(pfn, frames))

    @contextlib.contextmanager
    def failing(self, at: int, *, error: int = errno.EIO, torn_bytes: int = 0) -> Iterator[None]:
        """Let the write or sync number `at` and all after it fail inside the block."""
        self.fail_at, self.error, self.torn_bytes = self._steps + at, error, torn_bytes
        try:
            yield
        finally:
            self.fail_at = None

    def _must_fail(self) -> bool:
        self._steps += 1
        return self.fail_at is not None and self._steps > self.fail_at

    def _check(self, frames: set[int]) -> None:
        if not self.guarded:
            return
        if self._durable is None:
            self._durable = image_audit.frames_in_force(self)
        overwritten = frames & (self._durable | self._newer)
        assert not overwritten, f"frames of the save in force are written: {sorted(overwritten)}"

    def _check_fallback(self, slot: int) -> None:
        """Without the super block in `slot` there is a whole save still: this write may be torn."""
        if self.guarded and len(image_audit.super_blocks(self)) > 1:
            self._durable = image_audit.walk(self, verify=False, without=slot).frames


class _Kernel:
    """The kernel that images made from now on think they run on; see `kernel_with_pages`."""

    page_bytes = mmap.PAGESIZE


_kernel = _Kernel()


@contextlib.contextmanager
def kernel_with_pages(page_bytes: int) -> Iterator[None]:
    """Let holes be made as by a kernel with pages of that size, whatever this one has.

    As madvise(2) has it, a start within a page is refused, and a length is rounded up to whole pages.
    """

    def remove(holes: Holes, pfn: int, frames: int) -> None:
        start, mapping = pfn << PAGE_SHIFT, holes._mapping
        end = min(start + -(-(frames << PAGE_SHIFT) // page_bytes) * page_bytes, len(mapping))
        if start % page_bytes:
            return
        if isinstance(mapping, _WatchedMap):
            end = min(end, os.fstat(mapping.image._fd).st_size)  # it may have been cut short
            with contextlib.suppress(OSError):
                mapping.image.note_punch(pfn, (end - start) >> PAGE_SHIFT)
        mapping[start:end] = bytes(max(0, end - start))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Holes, "_remove", remove)
        patch.setattr(_kernel, "page_bytes", page_bytes)
        yield


class _WatchedMap(mmap.mmap):
    """The mapping that holes are punched through."""

    image: WatchedImage

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        assert option == mmap.MADV_REMOVE
        self.image.note_punch(start >> PAGE_SHIFT, length >> PAGE_SHIFT)
        super().madvise(option, start, length)


def image_of(content: bytes, *, writable: bool = True) -> WatchedImage:
    """An image that holds these bytes."""
    fd = os.memfd_create("pramfs-test-image", os.MFD_CLOEXEC)
    os.truncate(fd, len(content))
    for at in range(0, len(content), PAGE_SIZE):
        page = content[at : at + PAGE_SIZE]
        if page.strip(b"\0"):
            os.pwrite(fd, page, at)
    return WatchedImage(fd, writable=writable)


def replay(content: bytes, steps: list[Step]) -> bytearray:
    """What an image that held `content` holds after these steps."""
    after = bytearray(content)
    for step in steps:
        match step:
            case Grow(frames):
                after.extend(bytes(max(0, (frames << PAGE_SHIFT) - len(after))))
            case Write(offset, data):
                after[offset : offset + len(data)] = data
            case Punch(pfn, frames):
                after[pfn << PAGE_SHIFT : (pfn + frames) << PAGE_SHIFT] = bytes(
                    frames << PAGE_SHIFT
                )
            case Sync():
                pass
    return after


def new_pram(frames: int = 128, *, arena: str = "image", banned: Regions | None = None) -> Pram:
    """A Pram in a new watched image."""
    return Pram.create(image_of(b""), frames, banned=banned, arena=arena)


def watched(pram: Pram) -> WatchedImage:
    """The image of a Pram that `new_pram` or `reopen` made."""
    assert isinstance(pram.image, WatchedImage)
    return pram.image


def reopen(
    pram: Pram,
    *,
    arena: str = "image",
    banned: Regions | None = None,
    frames: int = 0,
    writable: bool = True,
) -> Pram:
    """Open the image of `pram` again, as the next process does. What was not published is lost."""
    image = watched(pram).reopen(writable=writable)
    pram.close()
    pram.image.close()
    return Pram.open(image, arena=arena, banned=banned, frames=frames)


def frames_between(first: int, last: int) -> Regions:
    """The banned regions first..last, inclusive."""
    return Regions([Region(first, last)])
