"""The super block and its discovery: two slots written in turn, found without a pfn (PKRAM, patch 7)."""

import contextlib
import os
import stat
from typing import Any

import pytest

from pramfs.errors import (
    ImageTooSmall,
    NoFrames,
    NoSuperBlock,
    NotAnImage,
    PramError,
    SaveFailed,
    UnsupportedFeatures,
    UnsupportedVersion,
)
from pramfs.offline.check import check_image
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.storage import layout, superblock
from pramfs.storage.frames import FREE
from pramfs.storage.layout import PAGE_SIZE, SUPER, SuperBlock
from pramfs.storage.regions import Region, Regions
from pramfs.tree.inodes import Directory, File
from pramfs.tree.tree import Owner, Tree
from tests.support.watched_image import (
    WatchedImage,
    frames_between,
    image_of,
    new_pram,
    reopen,
    watched,
)

FRAMES = 64
GENERATION_MAX = 1 << 62  # docs/format.md
RUN = bytes(16)


def published(image: WatchedImage, generations: int, slots: tuple[int, int] = (0, 1)) -> SuperBlock:
    """Publish empty saves until the super block in force has that generation."""
    image.grow(FRAMES)
    banned = Regions([Region(pfn, pfn) for pfn in range(slots[1]) if pfn != slots[0]])
    current = superblock.format_image(image, FRAMES, banned, RUN)
    save = superblock.Published(0, 0, FRAMES, 2, layout.SUPER_FINAL, RUN)
    while current.generation < generations:
        current = superblock.replace(image, current, current.other_pfn, save)
        image.sync()
    return at(image, current.pfn)


def at(image: WatchedImage, pfn: int) -> SuperBlock:
    """What is in the frame `pfn`."""
    return SuperBlock._make(SUPER.unpack_from(image.read(pfn)))


def changed(image: WatchedImage, slot: int, **fields: Any) -> None:
    """Change fields of the super block in a slot; its checksum is true."""
    block = at(image, slot)._replace(**fields)
    page = bytearray(PAGE_SIZE)
    SUPER.pack_into(page, 0, *block)
    layout.seal_page(block.uuid, slot, page)
    write(image, slot, page)


def write(image: WatchedImage, pfn: int, page: bytes | bytearray) -> None:
    """Write past the recorder of the image: this is damage, or another program."""
    os.pwrite(image._fd, page, pfn * PAGE_SIZE)


def super_block(uuid: bytes, pfn: int, *, other_pfn: int, generation: int) -> bytearray:
    """The page of a super block of an empty save."""
    block = SuperBlock(
        magic=layout.SUPER_MAGIC,
        csum=0,
        node_pfn=0,
        version=layout.VERSION,
        compatible=0,
        incompatible=0,
        flags=layout.SUPER_FINAL | layout.SUPER_PAIR,
        uuid=uuid,
        pfn=pfn,
        other_pfn=other_pfn,
        generation=generation,
        frames=FRAMES,
        frames_used=2,
        nodes=0,
        saved_ns=0,
        run=RUN,
        saved_by=b"somebody",
    )
    page = bytearray(PAGE_SIZE)
    SUPER.pack_into(page, 0, *block)
    layout.seal_page(uuid, pfn, page)
    return page


def pose(image: WatchedImage, pfn: int, *, uuid: bytes, generation: int) -> None:
    """Put what looks like a super block into a frame."""
    write(image, pfn, super_block(uuid, pfn, other_pfn=pfn ^ 1, generation=generation))


@pytest.fixture
def image() -> WatchedImage:
    return image_of(b"")


# --- two slots in turn ---------------------------------------------------------------------------


def test_saves_go_to_the_two_slots_in_turn(image: WatchedImage) -> None:
    places = [published(image_of(b""), generation).pfn for generation in range(2, 8)]
    assert places == [1, 0, 1, 0, 1, 0]


def test_the_newer_of_the_two_is_in_force() -> None:
    for generation in (2, 3, 9):
        published(image := image_of(b""), generation)
        assert superblock.discover(image).generation == generation


def test_both_slots_name_each_other(image: WatchedImage) -> None:
    block = published(image, 5)
    other = at(image, block.other_pfn)
    assert (block.other_pfn, other.other_pfn) == (other.pfn, block.pfn)
    assert other.generation == block.generation - 1


@pytest.mark.parametrize("landed_bytes", [1, 8, 24, 64, 72, 100, 119])
def test_a_torn_slot_leaves_the_save_before_in_force(
    image: WatchedImage, landed_bytes: int
) -> None:
    before = published(image, 6)
    old = image.read(before.other_pfn)
    after = superblock.replace(
        image, before, before.other_pfn, superblock.Published(0, 0, FRAMES, 2, 0, b"r" * 16)
    )
    torn = image.read(after.pfn)[:landed_bytes] + old[landed_bytes:]
    write(image, after.pfn, torn)
    assert superblock.discover(image).generation == before.generation
    assert superblock.discover(image) == before


@pytest.mark.parametrize("which", ["the newer", "the older"])
def test_a_lost_slot_leaves_the_other_in_force(image: WatchedImage, which: str) -> None:
    block = published(image, 6)
    lost = block.pfn if which == "the newer" else block.other_pfn
    write(image, lost, bytes(PAGE_SIZE))
    found = superblock.discover(image)
    assert found.generation == (5 if which == "the newer" else 6)


def test_a_save_after_a_torn_slot_repairs_it(image: WatchedImage) -> None:
    pram = Pram.create(image, FRAMES)
    write(image, pram.current.other_pfn, b"garbage")
    pram = reopen(pram)
    pram.publish()
    pram = reopen(pram)
    assert superblock.discover(pram.image, 0) == superblock.discover(pram.image, 1)


# --- discovery without a pfn ---------------------------------------------------------------------


@pytest.mark.parametrize("slots", [(0, 1), (5, 32), (32, 33), (1, 16)])
def test_the_super_block_is_found_wherever_it_lies(
    image: WatchedImage, slots: tuple[int, int]
) -> None:
    block = published(image, 7, slots)
    assert superblock.discover(image) == block


def test_it_is_found_behind_terabytes_of_hole(image: WatchedImage) -> None:
    far = 1 << 28
    image.guarded = False  # the guard looks at every frame
    image.grow(far + 2)
    superblock.format_image(image, far + 2, frames_between(0, far - 1), RUN)
    assert superblock.discover(image) == at(image, far + 1)


@pytest.mark.parametrize("named", [0, 1])
def test_pram_pfn_names_a_slot_and_the_newer_of_the_pair_is_taken(
    image: WatchedImage, named: int
) -> None:
    block = published(image, 6)
    assert superblock.discover(image, named) == block


@pytest.mark.parametrize("pfn", [2, FRAMES - 1, FRAMES, 1 << 50])
def test_pram_pfn_of_a_frame_without_super_block_is_refused(image: WatchedImage, pfn: int) -> None:
    published(image, 6)
    with pytest.raises(NoSuperBlock, match=f"pfn:{pfn:x} holds none"):
        superblock.discover(image, pfn)


@pytest.mark.parametrize("pfn", [6, 7, 10, 31, 34, FRAMES - 1])
def test_what_looks_like_a_super_block_and_is_in_no_slot_is_none(
    image: WatchedImage, pfn: int
) -> None:
    block = published(image, 6)
    pose(image, pfn, uuid=block.uuid, generation=7)
    assert superblock.discover(image) == block
    with pytest.raises(NoSuperBlock, match=f"pfn:{pfn:x} holds none"):
        superblock.discover(image, pfn)
    for slot in (0, 1):
        write(image, slot, bytes(PAGE_SIZE))
    with pytest.raises(NoSuperBlock, match="none found"):
        superblock.discover(image)


@pytest.mark.parametrize("arena", ["image", "memory"])
def test_a_user_who_fills_the_file_system_with_super_blocks_changes_nothing(arena: str) -> None:
    """Each of them is right in every way, for the frame that it lies in."""
    frames = 2 * layout.SLOT_SPACING + 100
    image = image_of(b"")
    image.guarded = (
        False  # the guard takes the newest valid super block anywhere for the one in force
    )
    pram = Pram.create(image, frames, arena=arena, banned=frames_between(0, 99))
    tree = Tree(pram.arena, inodes_max=9, generation=1)
    root = tree.make_root(0o777, Owner(0, 0))
    filled = fill_with_super_blocks(tree, root, pram.current.uuid)
    assert not [pfn for pfn in filled if layout.is_slot(pfn)]
    Saver(pram, "pramfs", tree).save(final=True, progress=lambda frames: None)
    in_force = at(image, pram.current.pfn)
    assert len(filled) > frames - 400
    pram = reopen(pram)
    assert pram.current == in_force
    tree = Tree(pram.arena, inodes_max=9, generation=2)
    load_tree(pram, "pramfs", tree)
    assert list(tree.root.entries) == [b"a file"]


def fill_with_super_blocks(tree: Tree, root: Directory, uuid: bytes) -> list[int]:
    """Fill a tree with a file of them; returns the frames that they lie in.

    A user writes pages until no more fit, then each again as a super block of the frame it lies in.
    """
    file = tree.create(root, b"a file", stat.S_IFREG | 0o600, Owner(1000, 1000))
    assert isinstance(file, File)
    size = 0
    with contextlib.suppress(OSError):
        while True:
            size += tree.write(file, size, b"x" * PAGE_SIZE)
    assert file.pages is not None
    pfns = [pfn for _, chunk in file.pages.chunks() for pfn in chunk if pfn]
    for index, pfn in enumerate(pfns):
        other = pfn ^ 1
        block = super_block(uuid, pfn, other_pfn=other, generation=1000 + index)
        tree.write(file, index * PAGE_SIZE, bytes(block))
    assert pfns == [pfn for _, chunk in file.pages.chunks() for pfn in chunk if pfn]
    return pfns


def test_an_image_without_super_block_has_none(image: WatchedImage) -> None:
    image.grow(FRAMES)
    with pytest.raises(NoSuperBlock, match="none found"):
        superblock.discover(image)
    with pytest.raises(NotAnImage, match="nothing was changed"):
        superblock.require(image)


def test_an_image_that_is_a_file_of_the_tree_is_not_taken_for_this_one(image: WatchedImage) -> None:
    """Its super blocks say in which frame they were written, and that is another one here."""
    inner = image_of(b"")
    published(inner, 30)
    outer = published(image, 4)
    for at in range(inner.frames):
        write(image, 2 + at % (FRAMES - 2), inner.read(at))
    assert superblock.discover(image) == outer
    write(image, outer.other_pfn, bytes(PAGE_SIZE))
    assert superblock.discover(image) == outer


def test_super_blocks_of_several_images_are_a_question_that_pram_pfn_answers(
    image: WatchedImage,
) -> None:
    ours = published(image, 4)
    for slot, generation in ((4, 8), (16, 9), (5, 7)):
        pose(image, slot, uuid=b"somebody else's.", generation=generation)
    choices = "pram=0, pram=1, pram=4, pram=5, pram=10"
    with pytest.raises(PramError, match=f"several images; choose one with {choices}$"):
        superblock.discover(image)
    for slot in (0, 1):
        assert superblock.discover(image, slot) == ours
    for slot in (4, 5, 16):
        assert superblock.discover(image, slot).generation == 9


def test_a_stranger_is_never_the_other_slot(image: WatchedImage) -> None:
    ours = published(image, 4)
    other = image_of(b"")
    published(other, 9)
    write(image, ours.other_pfn, other.read(ours.other_pfn))
    assert superblock.discover(image, ours.pfn) == ours


# --- what is too new, or impossible --------------------------------------------------------------


@pytest.mark.parametrize("version", [0, layout.VERSION + 1, 1 << 31])
def test_another_version_is_refused_with_a_clear_word(image: WatchedImage, version: int) -> None:
    published(image, 4)
    for slot in (0, 1):
        changed(image, slot, version=version)
    with pytest.raises(UnsupportedVersion, match=f"version {version}, this pramfs reads version 1"):
        superblock.discover(image)


def test_unknown_incompatible_features_are_refused(image: WatchedImage) -> None:
    published(image, 4)
    for slot in (0, 1):
        changed(image, slot, incompatible=0x80)
    with pytest.raises(UnsupportedFeatures, match="features 0x80"):
        superblock.discover(image)


def test_unknown_compatible_features_are_no_hindrance(image: WatchedImage) -> None:
    published(image, 4)
    for slot in (0, 1):
        changed(image, slot, compatible=0x80)
    assert superblock.discover(image).compatible == 0x80


@pytest.mark.parametrize(
    "fields",
    [
        {"magic": 0x12345678},
        {"pfn": 9},
        {"generation": (1 << 64) - 1},  # the next save could not be newer
    ],
)
def test_an_impossible_super_block_is_none(image: WatchedImage, fields: dict[str, int]) -> None:
    published(image, 4)
    for slot in (0, 1):
        changed(image, slot, **fields)
    with pytest.raises(NoSuperBlock):
        superblock.discover(image)


def test_the_last_generation_can_be_loaded_and_no_save_can_follow_it() -> None:
    """A save that went on counting would be said to be durable, and no mount would find it."""
    pram = new_pram(FRAMES)
    changed(watched(pram), pram.current.pfn, generation=GENERATION_MAX - 1)
    pram = reopen(pram)
    pram.publish()
    with pram.prepare_save("more", layout.BYTE_STREAM) as stream:
        stream.write(b"more")
    for _ in range(2):
        with pytest.raises(SaveFailed, match=f"generation {GENERATION_MAX} is the last") as caught:
            pram.publish()
        assert f"(generation {GENERATION_MAX}) stands" in str(caught.value)
    pram = reopen(pram)
    assert (pram.current.generation, list(pram.nodes)) == (GENERATION_MAX, [])


@pytest.mark.parametrize("generation", [GENERATION_MAX, GENERATION_MAX + 1])
def test_a_generation_past_the_last_is_no_super_block(image: WatchedImage, generation: int) -> None:
    current = published(image, 4)
    changed(image, current.pfn, generation=generation)
    accepted = generation <= GENERATION_MAX
    found = superblock.discover(image)
    assert found.pfn == (current.pfn if accepted else current.other_pfn)


@pytest.mark.parametrize("frames", [(1 << 32) + 1, (1 << 64) - 1])
def test_more_frames_than_pfns_can_count_are_refused(image: WatchedImage, frames: int) -> None:
    published(image, 4)
    for slot in (0, 1):
        changed(image, slot, frames=frames)
    with pytest.raises(NotAnImage, match=f"says that it has {frames} frames"):
        superblock.discover(image)


def test_the_newest_super_block_decides_whether_an_image_is_too_new(image: WatchedImage) -> None:
    """Else an old save would be in force, and the next one would destroy the new."""
    block = published(image, 4)
    changed(image, block.pfn, version=layout.VERSION + 1)
    with pytest.raises(UnsupportedVersion):
        superblock.discover(image)


@pytest.mark.parametrize("at", [0, 4, 8, 40, 64, 151, 2000, PAGE_SIZE - 1])
def test_a_flipped_bit_anywhere_in_the_page_invalidates_it(image: WatchedImage, at: int) -> None:
    block = published(image, 4)
    page = bytearray(image.read(block.pfn))
    page[at] ^= 0x10
    write(image, block.pfn, page)
    assert superblock.discover(image).generation == 3


# --- banned slots --------------------------------------------------------------------------------


def test_a_new_image_puts_its_slots_outside_banned_regions() -> None:
    pram = new_pram(FRAMES, banned=Regions([Region(0, 4), Region(6, 9)]))
    assert {pram.current.pfn, pram.current.other_pfn} == {5, 16}


def test_an_image_without_two_slots_that_are_not_banned_is_too_small() -> None:
    but_one = Regions([Region(0, 15), Region(17, FRAMES)])
    for banned in (frames_between(0, 33), frames_between(0, 63), but_one):
        image = image_of(b"")
        with pytest.raises(ImageTooSmall):
            Pram.create(image, FRAMES, banned=banned)
        assert not image.content().strip(b"\0")


def test_a_banned_slot_is_left_with_the_next_save_and_what_is_in_it_stays() -> None:
    pram = reopen(new_pram(FRAMES), banned=frames_between(0, 7))
    old = [pram.image.read(slot) for slot in (0, 1)]
    pram.publish()
    assert (pram.current.pfn, pram.current.other_pfn) == (8, 1)
    assert [pram.image.read(slot) for slot in (0, 1)] == old
    assert reopen(pram).current.generation == 3


def test_after_two_saves_both_banned_slots_have_been_left() -> None:
    pram = reopen(new_pram(FRAMES), banned=frames_between(0, 7))
    pram.publish()
    pram.publish()
    assert (pram.current.pfn, pram.current.other_pfn) == (9, 8)
    pram = reopen(pram)
    assert pram.current.generation == 4


def test_a_save_that_finds_every_slot_banned_fails_and_changes_nothing() -> None:
    pram = new_pram(FRAMES)
    content = watched(pram).content()
    pram.arena.table.ban(frames_between(0, 33))
    with pytest.raises(NoFrames):
        pram.publish()
    assert watched(pram).content() == content


@pytest.mark.parametrize("landed_bytes", [0, 64, 119])
def test_a_super_block_that_tears_on_its_way_to_another_slot_leaves_the_save_before(
    landed_bytes: int,
) -> None:
    pram = reopen(new_pram(FRAMES), banned=frames_between(0, 7))
    pram.publish()
    block = at(watched(pram), pram.current.pfn)
    pram = reopen(pram, banned=frames_between(0, 15))
    pram.publish()
    page = pram.image.read(pram.current.pfn)
    write(watched(pram), pram.current.pfn, page[:landed_bytes].ljust(PAGE_SIZE, b"\0"))
    assert superblock.discover(pram.image) == block


@pytest.mark.parametrize(
    "banned", [frames_between(0, 7), frames_between(0, 0), frames_between(1, 1)]
)
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_what_the_owner_writes_to_a_slot_that_was_left_is_no_damage(
    banned: Regions, saves: int
) -> None:
    pram = reopen(new_pram(FRAMES), banned=banned)
    for _ in range(saves):
        pram.publish()
    left = {slot for slot in (0, 1) if slot in banned} - {pram.current.pfn}
    for slot in left:
        write(watched(pram), slot, b"\xff" * PAGE_SIZE)
    if saves > 1 or pram.current.other_pfn not in left:
        assert pram.current.flags & layout.SUPER_PAIR
    assert superblock.damaged_slot(pram.image, pram.current) is None
    assert check_image(watched(pram).reopen(writable=False)).clean


def test_a_slot_that_was_taken_is_kept_when_the_ban_is_lifted() -> None:
    pram = reopen(new_pram(FRAMES), banned=frames_between(0, 7))
    pram.publish()
    pram.publish()
    taken = {pram.current.pfn, pram.current.other_pfn}
    pram = reopen(pram)
    pram.publish()
    assert {pram.current.pfn, pram.current.other_pfn} == taken


def test_pram_pfn_of_a_slot_that_was_left_finds_the_save_in_force_still() -> None:
    """Else an old note of the pfn would silently bring an old save back."""
    pram = new_pram(FRAMES)
    noted = pram.current.pfn
    pram = reopen(pram, banned=frames_between(0, 7))
    pram.publish()
    found = superblock.discover(pram.image, noted)
    assert (found.pfn, found.generation) == (pram.current.pfn, pram.current.generation)


def test_slots_that_were_left_are_used_for_nothing_else() -> None:
    """What lies there would otherwise be looked at for a super block."""
    pram = reopen(new_pram(FRAMES), banned=frames_between(0, 7))
    pram.publish()
    pram.publish()
    pram = reopen(pram)
    free = pram.arena.table.count(FREE)
    taken = {pfn for run in pram.arena.allocate(free) for pfn in range(run.pfn, sum(run))}
    assert taken == {pfn for pfn in range(FRAMES) if not layout.is_slot(pfn)}


@pytest.mark.parametrize("banned", [frames_between(0, 32), frames_between(1, 200)])
def test_an_image_that_a_ban_leaves_no_two_slots_is_refused_at_once(banned: Regions) -> None:
    """Not when it is saved: then what was written to it meanwhile would be lost."""
    pram = new_pram(FRAMES)
    with pytest.raises(ImageTooSmall, match="too much is banned: super blocks need two"):
        reopen(pram, banned=banned)


# --- the mark of a change -------------------------------------------------------------------------


def test_the_mark_of_a_change_leaves_the_save_in_force_alone(image: WatchedImage) -> None:
    current = published(image, 5)
    before = image.read(current.pfn)
    superblock.mark_changed(image, current, b"the run that did")
    assert image.read(current.pfn) == before
    assert superblock.discover(image) == current
    assert superblock.changed_by(image, current) == b"the run that did"


def test_a_mark_that_is_torn_is_none(image: WatchedImage) -> None:
    current = published(image, 5)
    superblock.mark_changed(image, current, b"the run that did")
    page = image.read(current.other_pfn)
    write(image, current.other_pfn, page[:100] + bytes(PAGE_SIZE - 100))
    assert superblock.discover(image) == current
    assert superblock.changed_by(image, current) is None


def test_the_next_save_overwrites_the_mark(image: WatchedImage) -> None:
    current = published(image, 5)
    superblock.mark_changed(image, current, b"the run that did")
    save = superblock.Published(0, 0, FRAMES, 2, layout.SUPER_FINAL, RUN)
    superblock.replace(image, current, current.other_pfn, save)
    assert superblock.discover(image).generation == 6
    assert superblock.changed_by(image, superblock.discover(image)) is None


def test_the_save_is_published_again_where_no_older_super_block_is(image: WatchedImage) -> None:
    """Else there would be nothing to mark."""
    current = published(image, 5)
    write(image, current.other_pfn, bytes(PAGE_SIZE))
    (paired,) = superblock.publish_pair(image, current, Regions())
    assert (paired.pfn, paired.other_pfn, paired.generation) == (current.other_pfn, current.pfn, 6)
    superblock.mark_changed(image, paired, b"the run that did")
    assert superblock.discover(image).generation == paired.generation
    assert superblock.changed_by(image, paired) == b"the run that did"


BANS = {
    "the slot in force": lambda block: frames_between(block.pfn, block.pfn),
    "the other slot": lambda block: frames_between(block.other_pfn, block.other_pfn),
    "both slots": lambda block: frames_between(0, 7),
}


@pytest.mark.parametrize("ban", BANS)
@pytest.mark.parametrize("saves", [0, 1, 2, 3])
def test_a_change_is_marked_wherever_slots_have_become_banned(ban: str, saves: int) -> None:
    """Whatever the ban, and in the runs after it, too."""
    pram = new_pram(FRAMES)
    pram.publish()
    banned = BANS[ban](pram.current)
    pram = reopen(pram, banned=banned)
    for _ in range(saves):
        pram.publish()
        pram = reopen(pram, banned=banned)
    pages = [pram.image.read(pfn) for pfn in range(FRAMES) if pfn in banned]
    nodes = pram.current.node_pfn
    assert superblock.changed_by(pram.image, pram.current) is None
    pram.mark_changed()
    assert [pram.image.read(pfn) for pfn in range(FRAMES) if pfn in banned] == pages
    found = superblock.discover(pram.image)
    assert found._replace(csum=0) == pram.current._replace(csum=0)
    assert found.node_pfn == nodes
    assert superblock.changed_by(pram.image, found) == pram.run
    assert check_image(watched(pram).reopen(writable=False)).clean
    pram.publish()
    assert superblock.changed_by(pram.image, superblock.discover(pram.image)) is None


# --- a save that may be lost ---------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 4, 16, 48, 64, 100, 1000, PAGE_SIZE - 1])
def test_a_damaged_super_block_of_a_later_save_is_told_and_not_passed_over(offset: int) -> None:
    """The save before it is in force then; that something later may be lost nobody must have to guess."""
    pram = new_pram(FRAMES)
    pram.publish()
    pram.publish()
    image, current = watched(pram), pram.current
    assert superblock.damaged_slot(image, current) is None
    assert check_image(image.reopen(writable=False)).clean
    byte = image.read(current.pfn)[offset]
    image.guarded = False
    image.write((current.pfn << 12) + offset, bytes([byte ^ 1]))
    before = superblock.require(image)
    assert before.generation == current.generation - 1
    report = check_image(image.reopen(writable=False))
    where = f"pfn:{current.pfn:x} corrupted (super block)"
    told = f"{where}: a save later than generation {before.generation} may be lost"
    assert report.damage == (told,)
    again = reopen(pram)
    again.publish()
    assert check_image(watched(again).reopen(writable=False)).clean
