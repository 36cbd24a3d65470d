"""Find the super block in force, and write the next one. Answers seed 003: nobody has to pass its pfn on.

Two slots are written in turn, so a torn write leaves the save before in force. A slot that has become
banned moves; its old place is blanked before the new one is written. So whoever finds two valid super
blocks that name each other and are one generation apart has found all there are; otherwise the whole
image is searched.
"""

import os
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

from pramfs import __version__, layout
from pramfs.errors import (
    ImageTooSmall,
    NoSuperBlock,
    NotAnImage,
    PramError,
    UnsupportedFeatures,
    UnsupportedVersion,
)
from pramfs.image import Image
from pramfs.layout import FRAMES_MAX, PAGE_SHIFT, PAGE_SIZE, SUPER, SUPER_MAGIC, SuperBlock

_MAGIC = struct.pack("<I", SUPER_MAGIC)
_GENERATION_MAX = 1 << 62


class Published(NamedTuple):
    """What a publish puts into the super block besides the place."""

    node_pfn: int
    nodes: int
    frames: int
    frames_used: int
    flags: int
    run: bytes


def discover(image: Image, pfn: int | None = None) -> SuperBlock:
    """The super block in force: from the slot at `pfn`, or found by a search from the start.

    Raises NoSuperBlock when there is none, UnsupportedVersion/UnsupportedFeatures when it is too new, and
    PramError when the image holds those of several images.
    """
    uuid = None
    if pfn is not None:
        named = _read(image, pfn)
        if named is None:
            raise NoSuperBlock(f"{image.path}: pfn:{pfn:x} holds none")
        pair = _pair_of(image, named)
        if pair:
            return _supported(image, pair)
        uuid = named.uuid  # its other slot is torn, or has moved and may hold the newer save
    found = _search(image, uuid)
    if not found:
        raise NoSuperBlock(f"{image.path}: none found")
    if len({block.uuid for block in found}) > 1:
        places = ", ".join(f"pram={block.pfn:x}" for block in found)
        raise PramError(f"{image.path}: super blocks of several images; choose one with {places}")
    return _supported(image, found)


def require(image: Image, pfn: int | None = None) -> SuperBlock:
    """`discover` for callers to whom an image without a super block is no image at all."""
    try:
        return discover(image, pfn)
    except NoSuperBlock as exc:
        if pfn is not None:
            raise
        raise NotAnImage(image.path, "no super block found") from exc


def format_image(image: Image, frames: int, slots: Iterable[int], run: bytes) -> SuperBlock:
    """Write an empty save into both `slots` of a blank image; returns the super block in force."""
    try:
        first, second = slots
    except ValueError as exc:
        raise ImageTooSmall(image.path, frames, "two are needed outside banned regions") from exc
    uuid = os.urandom(16)
    empty = Published(0, 0, frames, 2, layout.SUPER_FINAL, run)
    block = _compose(uuid, first, second, 1, empty)
    image.write(first << PAGE_SHIFT, _page(block))
    block = _compose(uuid, second, first, 2, empty)
    image.write(second << PAGE_SHIFT, _page(block))
    image.sync()
    return block


def replace(image: Image, current: SuperBlock, slot: int, published: Published) -> SuperBlock:
    """Write the next generation to `slot`; `current` stays in force until this is durable."""
    block = _compose(current.uuid, slot, current.pfn, current.generation + 1, published)
    image.write(slot << PAGE_SHIFT, _page(block))
    return block


def blank_slot(image: Image, pfn: int) -> None:
    """Remove the super block of a slot that is being moved, durably."""
    image.write(pfn << PAGE_SHIFT, bytes(PAGE_SIZE))
    image.sync()


def _compose(uuid: bytes, pfn: int, other: int, generation: int, save: Published) -> SuperBlock:
    return SuperBlock(
        magic=SUPER_MAGIC,
        csum=0,
        node_pfn=save.node_pfn,
        version=layout.VERSION,
        compatible=layout.COMPATIBLE,
        incompatible=layout.INCOMPATIBLE,
        flags=save.flags,
        uuid=uuid,
        pfn=pfn,
        other_pfn=other,
        generation=generation,
        frames=save.frames,
        frames_used=save.frames_used,
        nodes=save.nodes,
        saved_ns=time.time_ns(),
        run=save.run,
        saved_by=f"pramfs {__version__}".encode(),
    )


def _page(block: SuperBlock) -> bytearray:
    page = bytearray(PAGE_SIZE)
    SUPER.pack_into(page, 0, *block)
    layout.seal_page(block.uuid, block.pfn, page)
    return page


def _search(image: Image, uuid: bytes | None) -> list[SuperBlock]:
    """All valid super blocks, or those of the image `uuid`; only a pair as soon as there is one."""
    found = []
    for first, data in image.data_ranges():
        for block in _candidates(first, data):
            if uuid is not None and block.uuid != uuid:
                continue
            pair = _pair_of(image, block)
            if pair:
                return pair
            found.append(block)
    return found


def _candidates(first: int, data: bytes) -> Iterable[SuperBlock]:
    """The valid super blocks in the pages `data`, which start at frame `first`."""
    at = data.find(_MAGIC)
    while at >= 0:
        if at % PAGE_SIZE == 0 and len(data) - at >= PAGE_SIZE:
            block = _parse(first + (at >> PAGE_SHIFT), data[at : at + PAGE_SIZE])
            if block is not None:
                yield block
        at = data.find(_MAGIC, at + 1)


def _read(image: Image, pfn: int) -> SuperBlock | None:
    if not 0 <= pfn < image.frames:
        return None
    return _parse(pfn, image.read(pfn))


def _parse(pfn: int, page: bytes) -> SuperBlock | None:
    block = SuperBlock._make(SUPER.unpack_from(page))
    if block.magic != SUPER_MAGIC or block.pfn != pfn:
        return None
    if block.generation > _GENERATION_MAX or block.frames > FRAMES_MAX:
        return None
    if block.csum != layout.page_csum(block.uuid, pfn, page):
        return None
    return block


def _pair_of(image: Image, one: SuperBlock) -> list[SuperBlock]:
    """Both super blocks, if the other slot holds what was published just before or after `one`."""
    other = _read(image, one.other_pfn)
    if (
        other is not None
        and one.uuid == other.uuid
        and one.pfn != other.pfn
        and other.other_pfn == one.pfn
        and abs(one.generation - other.generation) == 1
    ):
        return [one, other]
    return []


def _supported(image: Image, found: list[SuperBlock]) -> SuperBlock:
    """The newest of `found`. Raises UnsupportedVersion, UnsupportedFeatures."""
    block = max(found, key=lambda block: block.generation)
    if block.version != layout.VERSION:
        raise UnsupportedVersion(image.path, block.version, layout.VERSION)
    unknown = block.incompatible & ~layout.INCOMPATIBLE
    if unknown:
        raise UnsupportedFeatures(image.path, unknown)
    return block
