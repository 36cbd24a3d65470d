"""`pramfs send` and `pramfs receive` of images: what arrives is what was sent, or nothing."""

import errno
import functools
import io
import os
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pramfs.cli.main import main
from pramfs.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    DamagedPage,
    NameTaken,
    NewerStream,
    NoBase,
    NoRoomForStream,
    NoStream,
    PramError,
    StreamCut,
    StreamDamaged,
    StreamRefused,
)
from pramfs.offline.diff import diff_trees
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.snapshots import copy_tree
from pramfs.saves.tree_nodes import mark_tree, marks_of
from pramfs.storage import image, superblock
from pramfs.storage.image import open_image
from pramfs.storage.layout import NODE_CUT_OFF, NODE_INCOMPLETE, PAGE_SIZE
from pramfs.stream.compression import compressor, decompressor
from pramfs.stream.decode import StreamReader
from pramfs.stream.encode import StreamWriter
from pramfs.stream.format import HEADER, METADATA, RUNS, SIZE, Header
from pramfs.stream.image_target import image_target
from pramfs.stream.page_plan import Runs
from pramfs.stream.receive import receive
from pramfs.stream.source import source_at
from pramfs.tree.attributes import Changes
from tests.support.image_audit import check_pram
from tests.support.image_files import flip, make_image
from tests.support.snapshots import take
from tests.support.streams import NoImage, reader_of, receive_into, sent, with_header
from tests.support.tree_volume import NAME, Facts, Volume, new_tree

PAGE = b"\x77" * PAGE_SIZE


class Kept(Volume):
    """A volume in an image in a file."""

    def __init__(self, path: Path, frames: int = 4096) -> None:
        self.path = path
        super().__init__(pram=Pram.create(path, frames))


def facts_in(path: Path, name: str = NAME) -> dict[int, Facts]:
    """Everything that a tree of an image says; also checks that the image is sound."""
    volume = Volume(pram=Pram.open(path))
    volume.tree = new_tree(volume.pram)
    load_tree(volume.pram, name, volume.tree)
    facts = volume.facts()
    volume.pram.close()
    with Pram.open(path) as pram:
        check_pram(pram, None)
    return facts


@pytest.fixture
def volume(tmp_path: Path) -> Kept:
    """One of everything that a tree can hold."""
    volume = Kept(tmp_path / "image")
    volume.mkdir("dir")
    volume.create("dir/file", b"file\n")
    big = volume.create("big", os.urandom(700 * PAGE_SIZE + 17))
    volume.tree.write(volume.create("sparse"), 3 * PAGE_SIZE, PAGE)
    volume.truncate("sparse", 1 << 40)
    volume.symlink("link", b"big")
    volume.mknod("pipe", stat.S_IFIFO | 0o600)
    volume.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    volume.create("one", b"two names")
    volume.link("one", "dir/two")
    clone = volume.create("clone")
    volume.tree.copy_range(big, 0, clone, 0, 700 * PAGE_SIZE)
    volume.tree.setxattr(big, b"user.note", b"kept", in_group=True)
    volume.tree.setattr(big, Changes(mode=0o4755, uid=7, gid=8, atime=1, mtime=-2, ctime=3))
    volume.tree.set_flags(volume.file("one"), 0x80, 0)  # no atime
    volume.save()
    return volume


def test_all_of_a_tree_arrives(volume: Kept, tmp_path: Path) -> None:
    new = tmp_path / "new"
    received = receive_into(new, sent(volume.path), frames=4096)
    assert received.name == NAME
    assert facts_in(new) == volume.facts()


def test_clones_stay_clones_and_holes_cost_nothing(volume: Kept, tmp_path: Path) -> None:
    stream = sent(volume.path)
    assert len(stream) < 720 * PAGE_SIZE
    receive_into(tmp_path / "new", stream, frames=4096)
    with Pram.open(tmp_path / "new") as pram:
        assert pram.arena.table.repeats == 700


def test_only_what_has_changed_since_a_snapshot_is_sent(volume: Kept, tmp_path: Path) -> None:
    take(volume, "before")
    new = tmp_path / "new"
    receive_into(new, sent(at(volume.path, "before")), frames=4096)
    volume.tree.write(volume.file("big"), 5 * PAGE_SIZE, PAGE)
    volume.tree.copy_range(volume.file("big"), 0, volume.create("again"), 0, 600 * PAGE_SIZE)
    volume.unlink("dir/file")
    volume.rename("clone", "dir/clone")
    take(volume, "after")
    stream = sent(at(volume.path, "after"), since="before")
    assert len(stream) < 4 * PAGE_SIZE
    received = receive_into(new, stream)
    assert received.name == f"{NAME}@after"
    assert facts_in(new, f"{NAME}@after") == volume.facts()
    with open_image(new, writable=False) as image:
        totals = diff_trees(image, f"{NAME}@before", f"{NAME}@after").totals
    assert (totals.pages, totals.renamed) == (1, 1)


def test_the_base_is_known_by_its_contents_and_not_by_its_name(
    volume: Kept, tmp_path: Path
) -> None:
    take(volume, "before")
    new = tmp_path / "new"
    receive_into(new, sent(at(volume.path, "before")), "@another", frames=4096)
    volume.create("more", b"more")
    take(volume, "after")
    receive_into(new, sent(at(volume.path, "after"), since="before"), "copy")
    assert facts_in(new, "copy") == volume.facts()


def test_a_receiver_without_the_base_refuses_after_the_header(volume: Kept, tmp_path: Path) -> None:
    take(volume, "before")
    volume.create("more", b"more")
    take(volume, "after")
    stream = sent(at(volume.path, "after"), since="before")
    other = make_image(tmp_path / "other")
    reader = reader_of(stream[: HEADER.size])
    target = NoImage()
    with pytest.raises(NoBase, match="pramfs@before"):
        receive(reader, target)
    with pytest.raises(NoBase):
        receive_into(other, stream)


def test_a_base_that_has_changed_since_is_none(volume: Kept, tmp_path: Path) -> None:
    take(volume, "before")
    new = tmp_path / "new"
    receive_into(new, sent(at(volume.path, "before")), NAME, frames=4096)
    changed = Volume(pram=Pram.open(new))
    changed.tree = new_tree(changed.pram)
    load_tree(changed.pram, NAME, changed.tree)
    changed.saver = type(volume.saver)(changed.pram, NAME, changed.tree)
    changed.tree.setattr(changed.inode("dir"), Changes(mode=0o700))
    changed.save()
    changed.pram.close()
    with pytest.raises(NoBase):
        receive_into(new, sent(volume.path, since="before"), "@x")


def at(path: Path, snapshot: str) -> Path:
    return Path(f"{path}@{snapshot}")


# --- whatever a tree holds ------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d/a", "d/b", "d/e/a"])
PAGES = st.dictionaries(st.integers(0, 40), st.sampled_from([1, 2, 3]), max_size=12)
TIMES = st.integers(-(2**62) // 10**9 * 10**9, 2**62)
FILES = st.dictionaries(
    NAMES,
    st.tuples(
        PAGES,
        st.integers(0, 50 * PAGE_SIZE),
        st.dictionaries(st.binary(min_size=1, max_size=8).map(lambda n: b"user." + n.hex().encode()),
                        st.binary(max_size=40), max_size=3),
        TIMES,
        st.booleans(),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(first=FILES, then=FILES)
# The last pages of the base, and new ones that follow them, in number and in index, in another file.
@example(
    first={"a": ({}, 0, {}, 0, False), "d/e/a": ({0: 1, 1: 1}, 4097, {}, 0, False)},
    then={"a": ({2: 1}, 8193, {}, 0, False)},
)
def test_any_tree_and_any_change_of_it_arrive(
    first: dict[str, tuple[object, ...]],
    then: dict[str, tuple[object, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("any")
    volume = Kept(home / "image", 2048)
    volume.mkdir("d")
    volume.mkdir("d/e")
    fill(volume, first)
    take(volume, "first")
    new = home / "new"
    receive_into(new, sent(at(volume.path, "first")), frames=2048)
    assert facts_in(new, f"{NAME}@first") == volume.facts()
    fill(volume, then)
    take(volume, "then")
    receive_into(new, sent(at(volume.path, "then"), since="first"))
    assert facts_in(new, f"{NAME}@then") == volume.facts()
    volume.pram.close()


def fill(volume: Volume, files: dict[str, tuple[object, ...]]) -> None:
    for name, (pages, size, xattrs, time, linked) in files.items():
        parent, plain = volume.parent(name)
        if plain in parent.entries:
            volume.unlink(name)
        file = volume.create(name)
        assert isinstance(pages, dict)
        assert isinstance(xattrs, dict)
        for index, byte in pages.items():
            volume.tree.write(file, index * PAGE_SIZE, bytes([byte]) * PAGE_SIZE)
        volume.truncate(name, size)  # type: ignore[arg-type]
        for key, value in xattrs.items():
            volume.tree.setxattr(file, key, value, in_group=True)
        volume.tree.setattr(file, Changes(mtime=time, atime=time))  # type: ignore[arg-type]
        if linked and plain + b"2" not in parent.entries:
            volume.link(name, name + "2")


# --- streams that do not arrive whole -------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A stream of a tree with one file of some bytes."""
    volume = Kept(tmp_path_factory.mktemp("small") / "image", 64)
    volume.create("file", b"some bytes\n")
    volume.save()
    return sent(volume.path)


def test_a_stream_that_is_cut_off_anywhere_brings_nothing(small: bytes) -> None:
    for end in range(len(small)):
        target = NoImage()
        with pytest.raises((StreamCut, NoStream)):
            receive(reader_of(small[:end]), target)
        assert target.published is None
    target = NoImage()
    receive(reader_of(small), target)
    assert target.published is not None


def test_a_stream_with_any_bit_flipped_brings_nothing(small: bytes) -> None:
    # In a page all bits are alike: of each byte one is flipped.
    in_page = range(len(small) - PAGE_SIZE - 48, len(small) - 48)
    for at_byte in range(len(small)):
        for bit in (at_byte % 8,) if at_byte in in_page else range(8):
            flipped = bytearray(small)
            flipped[at_byte] ^= 1 << bit
            target = NoImage()
            with pytest.raises((StreamCut, StreamDamaged, NoStream, NewerStream)):
                receive(reader_of(bytes(flipped)), target)
            assert target.published is None


def test_something_behind_the_end_is_damage(small: bytes) -> None:
    with pytest.raises(StreamDamaged, match="follows"):
        receive(reader_of(small + b"\0"), NoImage())


@pytest.mark.parametrize("end", [HEADER.size - 1, HEADER.size + 1, 1 << 20, -1])
def test_an_image_is_as_before_after_a_stream_that_was_cut_off(
    volume: Kept, tmp_path: Path, end: int
) -> None:
    other = make_image(tmp_path / "other", frames=4096)
    before, blocks = facts_in(other), other.stat().st_blocks
    with open_image(other, writable=False) as image:
        generation = superblock.require(image).generation
    with pytest.raises(StreamCut):
        receive_into(other, sent(volume.path)[:end], "@new", frames=8192)
    with open_image(other, writable=False) as image:
        assert superblock.require(image).generation == generation
    assert facts_in(other) == before
    assert other.stat().st_size == 4096 * PAGE_SIZE
    assert other.stat().st_blocks <= blocks + 8 * 8  # what was taken is given back


def test_an_image_that_was_made_for_a_bad_stream_is_removed(volume: Kept, tmp_path: Path) -> None:
    new = tmp_path / "new"
    with pytest.raises(StreamCut):
        receive_into(new, sent(volume.path)[:-1], frames=4096)
    assert not new.exists()


def test_a_damaged_page_is_found_before_it_is_sent(volume: Kept, tmp_path: Path) -> None:
    pfn = volume.file("big").pages.get(9)  # type: ignore[union-attr]
    flip(volume.path, pfn, 100)
    with pytest.raises(DamagedPage, match=f"{pfn:x}"):
        sent(volume.path)


# --- streams that were made to do harm ------------------------------------------------------------

LIES: dict[str, Callable[[Header], Header]] = {
    "much metadata": lambda header: header._replace(metadata_bytes=1 << 62),
    "no metadata": lambda header: header._replace(metadata_bytes=0),
    "many births": lambda header: header._replace(more_bytes=1 << 62),
    "many pages": lambda header: header._replace(pages=1 << 62, entries=1 << 62),
    "more pages than entries": lambda header: header._replace(pages=1 << 31),
    "many runs": lambda header: header._replace(runs=1 << 62),
    "a large base": lambda header: header._replace(base_pages=1 << 62),
    "unknown flags": lambda header: header._replace(flags=4),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_cannot_be_is_refused(small: bytes, lie: str) -> None:
    with pytest.raises(StreamRefused):
        receive(reader_of(with_header(small, LIES[lie])), NoImage())


@pytest.mark.parametrize(
    "name",
    [b"", b"..", b"../up", b"a/b", b"x-meta", b"-rf", b"a@b@c", b"a@/etc", b"\x1b[2J", b"\xff"],
)
def test_a_name_that_no_tree_can_have_is_refused(small: bytes, tmp_path: Path, name: bytes) -> None:
    stream = with_header(small, lambda header: header._replace(name=name))
    with pytest.raises(PramError, match="cannot be the name"):
        receive_into(tmp_path / "new", stream, frames=512)
    assert not (tmp_path / "new").exists()


def test_more_than_fits_is_refused_after_the_header(small: bytes, tmp_path: Path) -> None:
    stream = with_header(small, lambda header: header._replace(pages=1 << 20, entries=1 << 20))
    other = make_image(tmp_path / "other")
    with pytest.raises(NoRoomForStream):
        receive_into(other, stream[: HEADER.size], "@new")


@pytest.mark.parametrize("size", ["4K", "64K"])
def test_who_asked_for_a_size_that_is_too_small_is_told_of_it(
    volume: Kept, tmp_path: Path, size: str
) -> None:
    new = tmp_path / "new"
    code, _, told = command("receive", "--size", size, new, stdin=sent(volume.path))
    assert code == EXIT_FAILED
    assert told.endswith("; give the image more with --size\n")
    assert not new.exists()


def forged(tmp_path: Path, stream: bytes, runs: Runs, metadata: bytes | None = None) -> bytes:
    """A stream whose records are sound, with these runs, and metadata in place of its own."""
    reader = reader_of(stream)
    header, parts = reader.header, {METADATA: b"", RUNS: b""}
    while (record := reader.read()).type in {METADATA, RUNS, 2}:
        parts[record.type] = parts.get(record.type, b"") + bytes(record.body)
    csums, page = record.csums, bytes(record.body)
    data = parts[METADATA] if metadata is None else metadata
    header = header._replace(runs=len(runs), metadata_bytes=len(data), more_bytes=0)
    with (tmp_path / "forged").open("wb") as file:
        writer = StreamWriter(functools.partial(os.writev, file.fileno()), header)
        writer.write_bytes(METADATA, data)
        writer.write_bytes(RUNS, memoryview(runs.words).cast("B"))
        writer.write_pages(csums, page)
        writer.finish()
    return (tmp_path / "forged").read_bytes()


@pytest.mark.parametrize(
    "run",
    [(0, 0, 2), (0, 1, 1), (1, 0, 1), (0, 0, 0), (1 << 63, 0, 1), (0, (1 << 64) - 1, 1)],
)
def test_runs_that_lead_astray_are_refused(
    small: bytes, tmp_path: Path, run: tuple[int, int, int]
) -> None:
    runs = Runs()
    runs.add(*run)
    target = NoImage()
    with pytest.raises(StreamRefused):
        receive(reader_of(forged(tmp_path, small, runs)), target)
    assert target.pages == b""


def test_metadata_that_is_no_tree_is_refused(small: bytes, tmp_path: Path) -> None:
    runs = Runs()
    runs.add(0, 0, 1)
    target = NoImage()
    with pytest.raises(StreamRefused):
        receive(reader_of(forged(tmp_path, small, runs, b"\0" * 300)), target)
    assert target.pages == b""


def test_a_tree_that_is_not_the_one_announced_is_refused(small: bytes, tmp_path: Path) -> None:
    lying = with_header(small, lambda header: header._replace(identity=b"\1" * 32))
    with pytest.raises(StreamDamaged, match="digest"):
        receive(reader_of(lying), NoImage())
    runs = Runs()
    runs.add(0, 0, 1)
    with pytest.raises(StreamRefused, match="not the one"):
        receive(reader_of(forged(tmp_path, lying, runs)), NoImage())


# --- compressed -----------------------------------------------------------------------------------


@pytest.fixture
def zstd() -> None:
    try:
        compressor()
    except PramError:
        pytest.skip("the extra zstd is not installed")


def compressed(target: Path) -> bytes:
    with tempfile.TemporaryFile() as file:
        with source_at(target) as sending:
            sending.to(functools.partial(os.writev, file.fileno()), compress=compressor())
        file.seek(0)
        return file.read()


@pytest.mark.usefixtures("zstd")
def test_a_compressed_stream_arrives(volume: Kept, tmp_path: Path) -> None:
    volume.create("alike", PAGE * 300)
    volume.save()
    stream = compressed(volume.path)
    assert len(stream) < len(sent(volume.path)) - 200 * PAGE_SIZE
    reader = StreamReader(io.BytesIO(stream), decompressor)  # type: ignore[arg-type]
    with image_target(tmp_path / "new", reader.header, 4096) as target:
        receive(reader, target)
    assert facts_in(tmp_path / "new") == volume.facts()


@pytest.mark.usefixtures("zstd")
def test_a_compressed_stream_with_any_bit_flipped_brings_nothing(tmp_path: Path) -> None:
    volume = Kept(tmp_path / "image", 64)
    volume.create("file", b"some bytes\n")
    volume.save()
    stream = compressed(volume.path)
    assert len(stream) < 2000
    for at_byte in range(len(stream)):
        for bit in range(8):
            flipped = bytearray(stream)
            flipped[at_byte] ^= 1 << bit
            target = NoImage()
            reader = io.BytesIO(flipped)
            with pytest.raises((StreamCut, StreamDamaged, NoStream, NewerStream)):
                receive(StreamReader(reader, decompressor), target)  # type: ignore[arg-type]
            assert target.published is None


@pytest.mark.usefixtures("zstd")
def test_a_body_that_bursts_is_refused_at_its_limit(small: bytes, tmp_path: Path) -> None:
    bomb = compressor()(bytes(1 << 30))
    assert len(bomb) < 1 << 17
    with (tmp_path / "bomb").open("wb") as file:
        writer = StreamWriter(
            functools.partial(os.writev, file.fileno()), reader_of(small).header, lambda body: bomb
        )
        writer._write_record(METADATA, SIZE.pack(1 << 20), bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "bomb").open("rb", buffering=0) as file, pytest.raises(StreamDamaged):
        receive(StreamReader(file, decompressor), NoImage())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 16 * 1024


# --- the commands ---------------------------------------------------------------------------------


def command(*words: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pramfs", *map(str, words)],
        input=stdin,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_migration_in_two_steps(volume: Kept, tmp_path: Path) -> None:
    take(volume, "old")
    new = tmp_path / "keep.pram"
    code, stream, told = command("send", f"{volume.path}@old")
    assert (code, told) == (0, "")
    code, _, told = command("receive", "--size", "64M", new, stdin=stream)
    assert (code, told) == (0, f"{new}: received pramfs@old, 704 pages\n")
    volume.create("more", b"more")
    take(volume, "new")
    code, stream, _ = command("send", f"{volume.path}@new", "--since", "old")
    assert code == 0
    code, _, told = command("receive", new, stdin=stream)
    assert (code, told) == (0, f"{new}: received pramfs@new, 1 page\n")
    assert main(["rollback", str(new), "new"]) == 0
    assert facts_in(new) == volume.facts()
    assert main(["check", str(new)]) == 0


def test_a_bad_stream_is_told_in_one_line(small: bytes, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for stream, words in {
        small[:-1]: "the stream was cut off after",
        small[:-1] + b"\0": "the stream is damaged",
        b"": "standard input is no stream of pramfs send: it is empty",
        b"PRAM" * 999: "standard input is no stream of pramfs send: it begins with something else",
    }.items():
        code, out, told = command("receive", new, stdin=stream)
        assert (code, out) == (EXIT_FAILED, b"")
        assert told.startswith(f"pramfs: {words}")
        assert told.count("\n") == 1
        assert not new.exists()


def test_a_name_that_is_taken_is_refused(small: bytes, tmp_path: Path) -> None:
    other = make_image(tmp_path / "other")
    with pytest.raises(NameTaken):
        receive_into(other, small[: HEADER.size])
    receive_into(other, small, "@new")
    with pytest.raises(NameTaken):
        receive_into(other, small, "@new")


@pytest.mark.parametrize("written", range(3))
def test_a_full_disk_is_told_by_the_name_of_the_image(
    small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    write, room = image.write_all, iter(range(written))

    def write_all(fd: int, offset_bytes: int, data: bytes) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(fd, offset_bytes, data)

    monkeypatch.setattr(image, "write_all", write_all)
    new = tmp_path / "new"
    with pytest.raises(PramError) as caught:
        receive_into(new, small, "@new")
    assert str(caught.value).startswith(f"{new}: ")
    assert str(caught.value).endswith("No space left on device")
    assert not new.exists()


def test_a_terminal_is_refused(volume: Kept) -> None:
    master, terminal = os.openpty()
    try:
        for words in (["send", volume.path], ["receive", volume.path]):
            done = subprocess.run(
                [sys.executable, "-m", "pramfs", *map(str, words)],
                stdin=terminal,
                stdout=terminal,
                stderr=subprocess.PIPE,
                check=False,
            )
            assert done.returncode == EXIT_USAGE
            assert b"terminal" in done.stderr
    finally:
        os.close(master)
        os.close(terminal)


def test_a_receiver_that_is_gone_ends_the_sender(volume: Kept) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pramfs", "send", str(volume.path)],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (EXIT_FAILED, b"")


def test_a_path_with_an_at_sign_is_a_path(volume: Kept, tmp_path: Path) -> None:
    take(volume, "s")
    renamed = volume.path.rename(tmp_path / "a@b")
    assert sent(renamed)[:8] == sent(at(renamed, "s"))[:8]


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (NODE_INCOMPLETE, "incomplete: not all that programs had written was taken"),
        (NODE_CUT_OFF, "perhaps incomplete: the mount was cut off by force"),
        (NODE_INCOMPLETE | NODE_CUT_OFF, "incomplete: not all that programs had written was taken"),
    ],
)
def test_what_a_tree_lacks_is_told_by_its_receiver_and_stays_known(
    tmp_path: Path, marks: int, words: str
) -> None:
    volume = Kept(tmp_path / "image")
    volume.create("file", b"kept")
    volume.save()
    copy_tree(volume.pram, NAME, f"{NAME}@short")
    mark_tree(volume.pram, f"{NAME}@short", marks)
    volume.pram.publish()
    volume.pram.close()
    stream = sent(at(volume.path, "short"))
    new = tmp_path / "new"
    told = command("receive", "--size", "16M", new, stdin=stream)[2]
    assert told.endswith(f"pramfs: received as it is: {NAME}@short is {words}\n")
    with Pram.open(new) as pram:
        assert marks_of(pram.nodes, f"{NAME}@short") == marks
    assert sent(at(new, "short"))[12:16] == stream[12:16]  # it goes on to a third machine


def test_what_lacks_data_is_sent_with_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    volume = Kept(tmp_path / "image")
    volume.create("file", b"kept")
    volume.tree.data.refused.add(volume.file("file"), 0, PAGE_SIZE, "no space left")
    volume.saver.save(final=False, progress=lambda pages: None, snapshot=f"{NAME}@short")
    volume.tree.data.refused.taken(volume.file("file"), 0, PAGE_SIZE)
    volume.save()
    volume.pram.close()
    assert main(["send", str(volume.path)]) == 0
    assert "incomplete" not in capfd.readouterr().err
    assert main(["send", f"{volume.path}@short"]) == 0
    told = capfd.readouterr().err
    assert told.startswith("pramfs: sent as it is: pramfs@short is incomplete: not all")
