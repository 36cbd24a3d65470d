"""Find the super block in force, and write the next one.

In PKRAM (patch 7) somebody has to pass on where the super block is; here it is found. Two slots are written
in turn, so that a torn write leaves the previous save in force. Only a few frames can be slots, and nothing
else ever lies there (see layout): a search looks only there, and cannot take a file of the tree for a super
block. A slot that has become banned is abandoned for another one.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from pramfs import __version__
from pramfs.errors import (
    EarlierIncomplete,
    NoSuperBlock,
    NotAnImage,
    PramError,
    SaveCutOff,
    SavedMeanwhile,
    SaveIncomplete,
    TooMuchBanned,
    UnsupportedFeatures,
    UnsupportedVersion,
)
from pramfs.storage import layout
from pramfs.storage.image import Image
from pramfs.storage.layout import FRAMES_MAX, PAGE_SHIFT, PAGE_SIZE, SUPER, SUPER_MAGIC, SuperBlock
from pramfs.storage.regions import Regions

T = TypeVar("T")

_GENERATION_MAX = 1 << 62  # only a forged image gets there
_TWO_SLOTS = "super blocks need two frames, where they may lie"
_LOOKS = 4
# What commands say of a save or a tree that lacks what programs had written, or may lack it.
INCOMPLETE = "incomplete: not all that programs had written was taken"
CUT_OFF = "perhaps incomplete: the mount was cut off by force"


class MachineMark(NamedTuple):
    """Who has an image mounted for writing, as its super blocks say."""

    machine: bytes
    boot: bytes
    since_ns: int
    host: bytes


NOBODY = MachineMark(bytes(16), bytes(16), 0, b"")


class Published(NamedTuple):
    """What a publish writes into the super block, besides where it is."""

    node_pfn: int
    nodes: int
    frames: int
    frames_used: int
    flags: int
    run: bytes
    incompatible: int = 0  # feature bits
    mark: MachineMark = NOBODY


def discover(image: Image, pfn: int | None = None) -> SuperBlock:
    """Return the super block in force: the newest of all slots.

    With `pfn`, only super blocks with the same uuid as the one in that slot count. Raises NoSuperBlock when
    there is none, UnsupportedVersion or UnsupportedFeatures when it is too new, and PramError when there
    are super blocks of several images, as when one image was written over another.
    """
    found = list(_valid_blocks(image))
    if pfn is not None:
        uuids = {block.uuid for block in found if block.pfn == pfn}
        if not uuids:
            raise NoSuperBlock(f"{image.path}: pfn:{pfn:x} holds none")
        found = [block for block in found if block.uuid in uuids]
    if not found:
        raise NoSuperBlock(f"{image.path}: none found")
    if len({block.uuid for block in found}) > 1:
        places = ", ".join(f"pram={block.pfn:x}" for block in found)
        raise PramError(f"{image.path}: super blocks of several images; choose one with {places}")
    return _supported(image, max(found, key=lambda block: block.generation))


def require(image: Image, pfn: int | None = None) -> SuperBlock:
    """Return what `discover` does, but raise NotAnImage when there is no super block at all."""
    try:
        return discover(image, pfn)
    except NoSuperBlock as exc:
        if pfn is not None:
            raise
        raise NotAnImage(image.path, "no super block found") from exc


@contextlib.contextmanager
def steady(image: Image) -> Iterator[None]:
    """Guard reads of an image that a daemon may have mounted: a save in between is not taken for damage.

    A daemon that publishes a save uses frames of the one before again. If it did and the reads failed,
    SavedMeanwhile is raised instead of their error.
    """
    before = require(image).generation
    try:
        yield
    except PramError as exc:
        if require(image).generation != before:
            raise SavedMeanwhile(image.path) from exc
        raise


def look_between_saves(image: Image, look: Callable[[], T]) -> T:
    """Return what `look` does; call it again, at most _LOOKS times, if a save that came between broke it.

    Raises SavedMeanwhile if one always did.
    """
    for _ in range(_LOOKS - 1):
        with contextlib.suppress(SavedMeanwhile), steady(image):
            return look()
    with steady(image):
        return look()


def look_until_steady(look: Callable[[], tuple[T, bool]]) -> tuple[T, bool]:
    """Call `look` until no save was published meanwhile, at most _LOOKS times; return its last answer.

    Its answer is what it saw, and whether that can be trusted because no save was published meanwhile.
    """
    for _ in range(_LOOKS - 1):
        seen, is_steady = look()
        if is_steady:
            return seen, True
    return look()


def format_image(image: Image, frames: int, banned: Regions, run: bytes) -> SuperBlock:
    """Write empty saves into two slots of a blank image, and return the super block in force.

    Raises TooMuchBanned when there are no two slots outside banned regions.
    """
    first, second = two_slots(image, frames, banned)
    image.grow(frames)
    uuid = os.urandom(16)
    empty = Published(0, 0, frames, 2, layout.SUPER_FINAL | layout.SUPER_PAIR, run)
    block = _compose(uuid, first, second, 1, empty)
    image.write(first << PAGE_SHIFT, page_of(block))
    block = _compose(uuid, second, first, 2, empty)
    image.write(second << PAGE_SHIFT, page_of(block))
    image.sync()
    return block


def two_slots(image: Image, frames: int, banned: Regions) -> tuple[int, int]:
    """Return the first two slots below `frames` that are not banned. Raises TooMuchBanned."""
    first = free_slot(frames, banned)
    second = free_slot(frames, banned, first)
    if first is None or second is None:
        raise TooMuchBanned(image.path, _TWO_SLOTS)
    return first, second


def free_slot(frames: int, banned: Regions, taken: int | None = None) -> int | None:
    """Return the first slot below `frames` that is neither banned nor `taken`, or None."""
    for base in layout.slot_bases(frames):
        for slot in (base, base + 1):
            if slot < frames and slot != taken and slot not in banned:
                return slot
    return None


def replace(image: Image, current: SuperBlock, slot: int, published: Published) -> SuperBlock:
    """Write the super block of the next generation to `slot`; `current` stays in force until a sync.

    Raises PramError when the generations are used up, because no reader would accept the super block.
    """
    generation = _next_generation(current)
    block = _compose(current.uuid, slot, current.pfn, generation, published)
    image.write(slot << PAGE_SHIFT, page_of(block))
    return block


def mark_changed(
    image: Image, current: SuperBlock, run: bytes, mark: MachineMark = NOBODY
) -> SuperBlock | None:
    """Record durably, in the slot that is not in force, that this run is about to change the tree.

    The save in force is not touched; the next one overwrites the mark. `publish_pair` has seen to it that the
    slot holds an older super block. With `mark`, who has it mounted is recorded as well. Returns what it
    wrote, None where it held none. Raises OSError.
    """
    old = _other(image, current)
    if old is None:
        return None
    old = old._replace(flags=old.flags | layout.SUPER_CHANGED, run=run)
    return _mark(image, old if mark == NOBODY else _with_mark(old, mark))


def mark_mounted(image: Image, current: SuperBlock, mark: MachineMark) -> SuperBlock | None:
    """Record durably, in the slot that is not in force, who has the image mounted; NOBODY: nobody has.

    As `mark_changed`, whose mark it leaves as it is.
    """
    old = _other(image, current)
    if old is None:
        return None
    return _mark(image, _with_mark(old, mark))


def _with_mark(block: SuperBlock, mark: MachineMark) -> SuperBlock:
    return block._replace(flags=block.flags | layout.SUPER_MOUNTED, **mark._asdict())


def _mark(image: Image, marked: SuperBlock) -> SuperBlock:
    image.write(marked.pfn << PAGE_SHIFT, page_of(marked))
    image.sync()
    return marked


def mounted_by(image: Image, current: SuperBlock) -> MachineMark:
    """Return who has the image mounted, as far as it shows, NOBODY if that is nobody or not known."""
    old = _other(image, current)
    if old is not None and old.flags & layout.SUPER_MOUNTED:
        return _mark_in(old)
    return NOBODY if current.flags & layout.SUPER_FINAL else _mark_in(current)


def mark_at(image: Image, current: SuperBlock, pfn: int) -> MachineMark:
    """Return the mark in what another program has put into a slot, NOBODY if it has none."""
    page = image.read_anew(pfn << PAGE_SHIFT, PAGE_SIZE)
    block = _parse(pfn, page) if len(page) == PAGE_SIZE else None
    return _mark_in(block) if block is not None and block.uuid == current.uuid else NOBODY


def _mark_in(block: SuperBlock) -> MachineMark:
    return MachineMark(block.machine, block.boot, block.since_ns, block.host.rstrip(bytes(1)))


def publish_pair(image: Image, current: SuperBlock, banned: Regions) -> Iterator[SuperBlock]:
    """Make sure that the slot `other_pfn` of the super block in force holds an older one.

    Where that slot is banned, or holds none, the save in force is published again as it is, in another slot;
    twice if its own slot is banned, too. Yields each super block that is in force then. Raises OSError;
    PramError when no slots or generations are left.
    """
    while current.other_pfn in banned or _other(image, current) is None:
        slot: int | None = current.other_pfn
        if current.other_pfn in banned:
            slot = free_slot(current.frames, banned, current.pfn)
        if slot is None:
            raise TooMuchBanned(image.path, _TWO_SLOTS)
        current = _published_again(image, current, slot, banned)
        yield current


def publish_longer(image: Image, current: SuperBlock, frames: int) -> None:
    """Publish the save in force again, as that of an image of so many frames. Raises OSError, PramError."""
    changed = current._replace(frames=frames, flags=lasting_flags(image, current))
    _published_again(image, changed, current.other_pfn, Regions())


def _published_again(image: Image, current: SuperBlock, slot: int, banned: Regions) -> SuperBlock:
    pair = 0 if current.pfn in banned else layout.SUPER_PAIR
    block = current._replace(
        pfn=slot,
        other_pfn=current.pfn,
        generation=_next_generation(current),
        flags=current.flags & ~layout.SUPER_PAIR | pair,
    )
    image.write(slot << PAGE_SHIFT, page_of(block))
    image.sync()
    return block


def _next_generation(current: SuperBlock) -> int:
    if current.generation >= _GENERATION_MAX:
        raise PramError(f"generation {current.generation} is the last one that an image can have")
    return current.generation + 1


def changed_by(image: Image, current: SuperBlock) -> bytes | None:
    """Return the run that has changed the tree since the save in force, None if there was none."""
    old = _other(image, current)
    return old.run if old is not None and old.flags & layout.SUPER_CHANGED else None


def is_unclean(image: Image, current: SuperBlock) -> bool:
    """Whether the last run has ended without a final save, as far as the image shows."""
    return not current.flags & layout.SUPER_FINAL or changed_by(image, current) is not None


def lasting_flags(image: Image, current: SuperBlock) -> int:
    """Return what is to be known of the save in force after a tool has published another one.

    Whether it lacks something, or is suspect; and FINAL, unless the last run ended without a final save.
    """
    final = 0 if is_unclean(image, current) else layout.SUPER_FINAL
    lasting = layout.SUPER_SUSPECT | layout.SUPER_INCOMPLETE | layout.SUPER_CUT_OFF
    return final | current.flags & lasting


def shortcomings(block: SuperBlock) -> list[SaveIncomplete]:
    """Return what the save of this super block lacks, or may lack, of what programs had written."""
    known: list[SaveIncomplete] = []
    if block.flags & layout.SUPER_INCOMPLETE:
        known.append(EarlierIncomplete())
    if block.flags & layout.SUPER_CUT_OFF:
        known.append(SaveCutOff())
    return known


def what_it_lacks(*, incomplete: bool, cut_off: bool, why: bool = True) -> str:
    """Return what to say of a save or a tree with these marks, the worse of both; "" if it has none."""
    told = INCOMPLETE if incomplete else CUT_OFF if cut_off else ""
    return told if why else told.partition(":")[0]


def damaged_slot(image: Image, current: SuperBlock) -> int | None:
    """Return the slot that is not in force if its super block is damaged, else None.

    It may have been of a later save: one that was cut off while it was published, or one that was in force.
    A slot that was given up because it had become banned is never damaged: whoever owns it may write there.
    """
    slot = current.other_pfn
    if not current.flags & layout.SUPER_PAIR:
        return None
    # A daemon may be writing it: what it is then is seen at the second look.
    for _ in range(2):
        page = _other_page(image, current)
        if page in (b"", bytes(PAGE_SIZE)) or _parse(slot, page) is not None:
            return None
    return slot


def _other(image: Image, current: SuperBlock) -> SuperBlock | None:
    """Return the older super block in the slot that is not in force, if one is there."""
    page = _other_page(image, current)
    block = _parse(current.other_pfn, page) if page else None
    is_older = block is not None and block.generation < current.generation
    return block if is_older and block is not None and block.uuid == current.uuid else None


def _other_page(image: Image, current: SuperBlock) -> bytes:
    """Return what is in the slot that is not in force, b"" if the image ends before it."""
    slot = current.other_pfn
    return image.read_anew(slot << PAGE_SHIFT, PAGE_SIZE) if slot < image.frames else b""


def _compose(uuid: bytes, pfn: int, other: int, generation: int, save: Published) -> SuperBlock:
    return SuperBlock(
        magic=SUPER_MAGIC,
        csum=0,
        node_pfn=save.node_pfn,
        version=layout.VERSION,
        compatible=layout.COMPATIBLE,
        incompatible=save.incompatible,
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
        **save.mark._asdict(),
    )


def page_of(block: SuperBlock) -> bytearray:
    """Return the page that holds the super block, with its checksum."""
    page = bytearray(PAGE_SIZE)
    SUPER.pack_into(page, 0, *block)
    layout.seal_page(block.uuid, block.pfn, page)
    return page


def _valid_blocks(image: Image) -> Iterator[SuperBlock]:
    """Yield the valid super blocks. A page that is not in a slot is none, whatever it looks like."""
    for base in layout.slot_bases(image.frames):
        pages = image.read_anew(base << PAGE_SHIFT, 2 << PAGE_SHIFT)
        for at in range(0, len(pages) & ~(PAGE_SIZE - 1), PAGE_SIZE):
            block = _parse(base + (at >> PAGE_SHIFT), pages[at : at + PAGE_SIZE])
            if block is not None:
                yield block


def _parse(pfn: int, page: bytes) -> SuperBlock | None:
    block = SuperBlock._make(SUPER.unpack_from(page))
    if block.magic != SUPER_MAGIC or block.pfn != pfn:
        return None
    if block.generation > _GENERATION_MAX:
        return None
    if block.csum != layout.page_csum(block.uuid, pfn, page):
        return None
    return block


def _supported(image: Image, block: SuperBlock) -> SuperBlock:
    if block.version != layout.VERSION:
        raise UnsupportedVersion(image.path, block.version, layout.VERSION)
    unknown = block.incompatible & ~layout.INCOMPATIBLE
    if unknown:
        raise UnsupportedFeatures(image.path, unknown)
    if block.frames > FRAMES_MAX:
        raise NotAnImage(image.path, f"its super block says that it has {block.frames} frames")
    return block
