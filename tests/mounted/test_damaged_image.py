"""A damaged image is refused by name, and nothing short, wrong or zeroed is ever served from it."""

import errno
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import (
    CHECK_DAMAGED,
    CHECK_UNREADABLE,
    MIB,
    MOUNT_FAILED,
    PAGE,
    Volume,
    content_of,
    pramfs,
    run,
)
from tests.mounted.image_pages import BYTE_STREAM, PAGE_STREAM, Pages
from tests.support.colliding_image import inode_numbers, inodes_image

CONTENT = sample_trees.noise(200 * PAGE)
VICTIM = "directory/victim"


@pytest.fixture(scope="module")
def saved_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that holds a victim of 200 pages and other files; copied before it is used."""
    volume = Volume(tmp_path_factory.mktemp("saved"), "memory")
    root = volume.mount()
    sample_trees.plant_files(root, 50)
    (root / "directory").mkdir()
    (root / VICTIM).write_bytes(CONTENT)
    (root / "directory" / "bystander").write_bytes(b"whole")
    volume.finish()
    return volume.image


@pytest.fixture
def damageable(volume: Volume, saved_image: Path) -> Volume:
    run("cp", "--sparse=always", saved_image, volume.image).succeeded()
    volume.damaged = True
    # What is remembered of the last run belongs to the image's uuid, which all copies share.
    volume.announce("ended without a final save")
    return volume


def page_of_victim(pages: Pages, number: int = 100) -> int:
    """The frame of a page of the victim, found by what is in it."""
    expected = CONTENT[number * PAGE : (number + 1) * PAGE]
    stream = pages.stream(pages.node_of_type(PAGE_STREAM))
    return next(pfn for pfn in stream if pages.read(pfn) == expected)


KINDS: dict[str, Callable[[Pages], int]] = {
    "node of the metadata": lambda pages: pages.node_of_type(BYTE_STREAM),
    "node of the data": lambda pages: pages.node_of_type(PAGE_STREAM),
    "first link of the metadata": lambda pages: pages.links(pages.node_of_type(BYTE_STREAM))[0],
    "first link of the data": lambda pages: pages.links(pages.node_of_type(PAGE_STREAM))[0],
    "last link of the data": lambda pages: pages.links(pages.node_of_type(PAGE_STREAM))[-1],
    "page of metadata": lambda pages: pages.stream(pages.node_of_type(BYTE_STREAM))[0],
    "last page of metadata": lambda pages: pages.stream(pages.node_of_type(BYTE_STREAM))[-1],
    "data page": page_of_victim,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_a_flipped_bit_is_refused(damageable: Volume, kind: str) -> None:
    pages = Pages(damageable.image)
    pfn = KINDS[kind](pages)
    for byte in (0, PAGE - 1):
        pages.flip(pfn, byte, bit=3)
        damageable.refused(VICTIM if kind == "data page" else f"pfn:{pfn:x}")
        assert pramfs("check", damageable.image).code == CHECK_DAMAGED
        pages.flip(pfn, byte, bit=3)
    damageable.check()


@pytest.mark.parametrize("kind", ["node of the data", "page of metadata"])
def test_a_refused_image_is_as_long_as_it_was(damageable: Volume, kind: str) -> None:
    """A larger size= has it grow, and recover one that was cut off, before all of it has been read."""
    pages = Pages(damageable.image)
    pages.flip(KINDS[kind](pages))
    size = damageable.image.stat().st_size
    for options, cut in ((["size=1G"], 0), (["recover"], 4 * PAGE)):
        os.truncate(damageable.image, size - cut)
        damageable.refused("pfn:", options=options)
        assert damageable.image.stat().st_size == size - cut


def test_a_refused_image_names_every_damaged_file(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    pages.flip(page_of_victim(pages))
    stream = pages.stream(pages.node_of_type(PAGE_STREAM))
    pages.flip(next(pfn for pfn in stream if pages.read(pfn).startswith(b"whole")))
    damageable.refused(VICTIM, "directory/bystander")


def test_a_lazy_mount_answers_eio_for_the_bad_page_only(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    pages.flip(page_of_victim(pages))
    damageable.announce("corrupted", "checksum")
    root = damageable.mount("verify=lazy")
    assert (root / "directory" / "bystander").read_bytes() == b"whole"
    with (root / VICTIM).open("rb", buffering=0) as file:
        for _ in range(2):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
                os.pread(file.fileno(), PAGE, 100 * PAGE)
            assert caught.value.errno == errno.EIO
    damageable.remount("verify=lazy")
    with (root / VICTIM).open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10 * PAGE, 0) == CONTENT[: 10 * PAGE]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "data page"])
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_recover_says_what_is_left_of_what_it_cannot_mount(damageable: Volume, kind: str) -> None:
    pages = Pages(damageable.image)
    pages.flip(KINDS[kind](pages))
    left = damageable.home / "left"
    extracted = pramfs("extract", "--recover", "-C", left, damageable.image)
    if "metadata" in kind:
        told = ["names of the files of tree 'pramfs' are lost", "nothing can be recovered"]
        assert extracted.code == MOUNT_FAILED
    else:
        told = ["files of tree 'pramfs' that are whole", "pramfs extract --recover"]
        assert extracted.code == CHECK_DAMAGED
        assert len(list(left.rglob("*"))) > 0
    damageable.refused(*told, options=["recover"])


def test_recover_mounts_what_is_whole(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    pages.flip(page_of_victim(pages))
    before = content_of(damageable.image)
    damageable.announce(VICTIM, "damaged", "corrupted")

    root = damageable.mount("recover")
    assert VICTIM in damageable.log
    assert not (root / VICTIM).exists()
    assert (root / "directory" / "bystander").read_bytes() == b"whole"
    assert len(list(root.glob("d?/f*"))) == 50
    damageable.kill()
    if damageable.arena == "memory":
        assert content_of(damageable.image) == before
    damageable.refused(VICTIM)

    damageable.mount("recover")
    damageable.damaged = False
    damageable.remount()
    assert not (root / VICTIM).exists()
    assert (root / "directory" / "bystander").read_bytes() == b"whole"


def test_recover_on_a_whole_image_is_a_plain_mount(damageable: Volume) -> None:
    damageable.damaged = False
    root = damageable.mount("recover")
    assert (root / VICTIM).read_bytes() == CONTENT


def test_a_damaged_super_block_never_brings_back_an_older_tree(damageable: Volume) -> None:
    """The frames of the save before were given back when this one was published."""
    root = damageable.mount()
    (root / "new").touch()
    damageable.save()
    damageable.kill()
    pages = Pages(damageable.image)
    newest, _ = pages.supers()
    pages.write(newest.pfn, pages.read(newest.pfn)[:512] + b"\xff" * (PAGE - 512))
    damageable.refused("reservation failed")
    assert pramfs("check", damageable.image).code == CHECK_DAMAGED


def test_a_mount_of_an_older_save_says_that_a_later_one_may_be_lost(volume: Volume) -> None:
    """The save before may be whole, as the empty one of a new image is."""
    volume.mount()
    volume.umount()
    pages = Pages(volume.image)
    pages.flip(pages.supers()[0].pfn, byte=70)
    report = pramfs("check", volume.image)
    assert report.code == CHECK_DAMAGED
    assert "a save later than generation 2 may be lost" in report.text
    volume.announce("corrupted .super block.: a save later than generation 2 may be lost")
    volume.mount()
    volume.save()
    assert pramfs("check", volume.image).code == 0


def test_without_a_super_block_it_is_no_image(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    for slot in pages.supers():
        pages.flip(slot.pfn, byte=70)
    damageable.refused("not a pram image")
    assert pramfs("check", damageable.image).code == CHECK_UNREADABLE


@pytest.mark.parametrize("pages_left", [1, 20, 100])
def test_a_truncated_image_is_refused(damageable: Volume, pages_left: int) -> None:
    os.truncate(damageable.image, pages_left * PAGE)
    damageable.refused(str(damageable.image))
    assert pramfs("check", damageable.image).code in (CHECK_DAMAGED, CHECK_UNREADABLE)


def test_a_cut_off_page_is_refused(damageable: Volume) -> None:
    os.truncate(damageable.image, damageable.image.stat().st_size - 100)
    damageable.refused(str(damageable.image))


@pytest.mark.parametrize(
    ("offset", "words"),
    [(16, ["version 2", "newer"]), (24, ["feature", "newer"])],
    ids=["version", "incompatible feature"],
)
def test_a_newer_image_is_refused(damageable: Volume, offset: int, words: list[str]) -> None:
    pages = Pages(damageable.image)
    for slot in pages.supers():
        pages.patch(slot.pfn, offset, struct.pack("<I", 2))
    damageable.refused(*words)


def test_a_newer_image_with_compatible_features_is_mounted(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    for slot in pages.supers():
        pages.patch(slot.pfn, 20, struct.pack("<I", 1 << 31))
    assert (damageable.mount() / VICTIM).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        ("node of the data", 24, 1 << 40),
        ("node of the data", 24, 0xFFFFFFFFFFFFFFFF),
        ("first link of the data", 16, 1 << 40),
        ("first link of the data", 24 + 8, 1 << 40),
        ("first link of the metadata", 24 + 8, 0),
        ("node of the metadata", 16, 1 << 60),
    ],
)
def test_lies_with_a_right_checksum_are_refused(
    damageable: Volume, kind: str, offset: int, value: int
) -> None:
    pages = Pages(damageable.image)
    pages.patch(KINDS[kind](pages), offset, struct.pack("<Q", value))
    damageable.refused()
    assert pramfs("check", damageable.image).code == CHECK_DAMAGED


def test_a_chain_that_bites_its_tail_is_refused(damageable: Volume) -> None:
    pages = Pages(damageable.image)
    first, *_, last = pages.links(pages.node_of_type(PAGE_STREAM))
    pages.patch(last, 16, struct.pack("<Q", first))
    damageable.refused()
    assert pramfs("check", damageable.image).code == CHECK_DAMAGED


@pytest.mark.parametrize("content", [b"text\n" * 10_000, b"\0" * 100 + b"x", b"x"])
def test_another_kind_of_file_is_refused(volume: Volume, content: bytes) -> None:
    volume.image.write_bytes(content)
    volume.refused(str(volume.image), "not a pram image")
    assert volume.image.read_bytes() == content


def test_an_image_of_ext4_is_refused(volume: Volume) -> None:
    volume.image.touch()
    os.truncate(volume.image, 16 * MIB)
    run("mkfs.ext4", "-q", volume.image).succeeded()
    volume.refused(str(volume.image), "not a pram image")
    assert pramfs("check", volume.image).code == CHECK_UNREADABLE


def test_a_directory_is_no_image(volume: Volume) -> None:
    volume.image.mkdir()
    pramfs("mount", volume.image, volume.root).refused(32, str(volume.image))


def test_an_image_in_use_is_refused(volume: Volume, tmp_path: Path) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    other = tmp_path / "other"
    other.mkdir()
    link = volume.home / "hard link"
    link.hardlink_to(volume.image)
    (volume.home / "symlink").symlink_to(volume.image)
    for image in (volume.image, link, volume.home / "symlink"):
        outcome = pramfs("mount", "-o", volume.options(), image, other)
        outcome.refused(32, str(image), "in use", str(volume.pid))
    assert (root / "file").read_bytes() == b"kept"
    volume.remount()
    assert (root / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("arena", ["image"], indirect=True)
@pytest.mark.parametrize("options", [(), ("verify=lazy",), ("recover",)])
def test_inode_numbers_that_were_chosen_to_meet_are_served(
    volume: Volume, options: tuple[str, ...]
) -> None:
    """The daemon has not half the processor's time that it would take in a dict."""
    numbers = inode_numbers()
    inodes_image(volume.image, numbers)
    daemon = volume.start_mount("nr_inodes=200000", *options)
    resource.prlimit(daemon.pid, resource.RLIMIT_CPU, (15, 15))
    root = volume.serve(daemon)
    assert {int(name) for name in os.listdir(root)} == set(numbers)
    for number in (*numbers[:1000], *numbers[-1000:]):
        (root / str(number)).unlink()
        (root / f"new {number}").touch()
    volume.umount()
