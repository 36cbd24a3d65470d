"""The tree comes back: byte for byte, attribute for attribute, after umount and mount."""

import contextlib
import errno
import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, PAGE, Volume
from tests.mounted.system import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    handle_of,
    open_by_handle,
    renameat2,
    syncfs,
)

TIB = 1 << 40


def test_everything_comes_back_again_and_again(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_everything(root)
    before = sample_trees.snapshot(root)

    for _ in range(2):
        volume.remount()
        sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_an_empty_tree_comes_back(volume: Volume) -> None:
    root = volume.mount()
    before = sample_trees.snapshot(root)
    volume.remount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_many_small_files_come_back(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 2000)
    before = sample_trees.snapshot(root)
    volume.remount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_changes_to_a_loaded_tree_come_back(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 200)
    volume.remount()

    for number in range(0, 200, 4):
        (root / f"d{number % 10}" / f"f{number}").unlink()
    with (root / "d1" / "f1").open("r+b") as file:
        file.write(sample_trees.noise(3 * PAGE))
    with (root / "d3" / "f3").open("ab") as file:
        file.write(b"appended")
    os.truncate(root / "d5" / "f5", 17)
    os.setxattr(root / "d7" / "f7", "user.new", b"value")
    (root / "d9").rename(root / "d1" / "d9")
    (root / "new").symlink_to("d1")
    before = sample_trees.snapshot(root)

    volume.remount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


@pytest.mark.parametrize("option", ["direct_io", "verify=lazy", "allow_other"])
def test_everything_comes_back_with_option(volume: Volume, option: str) -> None:
    root = volume.mount(option)
    sample_trees.plant_everything(root)
    before = sample_trees.snapshot(root)
    volume.remount(option)
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_times_keep_every_nanosecond(volume: Volume) -> None:
    root = volume.mount()
    for name, time_ns in sample_trees.TIMES_NS.items():
        (root / name).touch()
        os.utime(root / name, ns=(time_ns - 1, time_ns))

    def times_ns() -> dict[str, tuple[int, int]]:
        seen = {path.name: path.stat() for path in root.iterdir()}
        return {name: (status.st_atime_ns, status.st_mtime_ns) for name, status in seen.items()}

    expected = {name: (time_ns - 1, time_ns) for name, time_ns in sample_trees.TIMES_NS.items()}
    assert times_ns() == expected
    volume.remount()
    assert times_ns() == expected


def test_every_legal_byte_in_a_name(volume: Volume) -> None:
    root = volume.mount()
    names = {bytes([byte]) for byte in range(1, 256)} - {b".", b"/"} | {
        os.fsencode(name) for name in sample_trees.ODD_NAMES.values()
    }
    for name in names:
        (root / os.fsdecode(name)).touch()
    assert set(os.listdir(os.fsencode(root))) == names
    volume.remount()
    assert set(os.listdir(os.fsencode(root))) == names


def test_a_sparse_file_keeps_its_holes(volume: Volume) -> None:
    root = volume.mount()
    islands = {0: b"first", 3 * MIB + 5: b"in a page", TIB: b"far out", 6 * TIB - 4: b"last"}

    with (root / "sparse").open("wb") as file:
        for offset, piece in islands.items():
            file.seek(offset)
            file.write(piece)

    def assert_sparse() -> None:
        assert (root / "sparse").stat().st_size == 6 * TIB
        assert (root / "sparse").stat().st_blocks * 512 == len(islands) * PAGE
        with (root / "sparse").open("rb") as file:
            for offset, piece in islands.items():
                file.seek(offset)
                assert file.read(len(piece)) == piece
            file.seek(TIB // 2)
            assert file.read(MIB) == bytes(MIB)

    assert_sparse()
    volume.remount()
    assert_sparse()


def test_what_was_cut_off_reads_as_zeros(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"\xff" * 3 * PAGE)
    os.truncate(root / "file", PAGE + 10)
    volume.remount()
    os.truncate(root / "file", 3 * PAGE)
    expected = b"\xff" * (PAGE + 10) + bytes(2 * PAGE - 10)
    assert (root / "file").read_bytes() == expected
    volume.remount()
    assert (root / "file").read_bytes() == expected


def test_frames_of_a_deleted_file_show_nothing_of_it(volume: Volume) -> None:
    root = volume.mount()
    (root / "secret").write_bytes(b"\xa5" * 40 * MIB)
    volume.remount()
    (root / "secret").unlink()
    volume.remount()
    with (root / "new").open("wb") as file:
        for number in range(0, 40 * MIB, 2 * PAGE):
            file.seek(number)
            file.write(b"x")
    volume.remount("direct_io")
    with (root / "new").open("rb") as file:
        while chunk := file.read(MIB):
            assert b"\xa5" not in chunk


def test_rename_without_replacing(volume: Volume) -> None:
    root = volume.mount()
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        renameat2(root / "a", root / "b", RENAME_NOREPLACE)
    renameat2(root / "a", root / "c", RENAME_NOREPLACE)

    volume.remount()
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {"b": b"b", "c": b"a"}


def test_rename_exchanges_a_file_and_a_directory(volume: Volume) -> None:
    root = volume.mount()
    (root / "left").mkdir()
    (root / "left" / "file").write_bytes(b"file")
    (root / "right" / "directory").mkdir(parents=True)
    (root / "right" / "directory" / "child").touch()
    renameat2(root / "left" / "file", root / "right" / "directory", RENAME_EXCHANGE)

    def assert_exchanged() -> None:
        assert (root / "right" / "directory").read_bytes() == b"file"
        assert (root / "left" / "file" / "child").is_file()
        assert (root / "left").stat().st_nlink == 3
        assert (root / "right").stat().st_nlink == 2
        assert (root / "left" / "file" / ".." / "file").is_dir()

    assert_exchanged()
    with pytest.raises(FileNotFoundError):
        renameat2(root / "left", root / "nowhere", RENAME_EXCHANGE)
    volume.remount()
    assert_exchanged()


def test_an_unlinked_open_file_is_usable_over_a_save_and_gone_after_it(volume: Volume) -> None:
    root = volume.mount()
    volume.save()
    empty = os.statvfs(root)
    descriptor = os.open(root / "open", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, sample_trees.noise(4 * MIB))
    (root / "open").unlink()
    volume.save()

    os.write(descriptor, b"more")
    assert os.pread(descriptor, 5 * MIB, 0) == sample_trees.noise(4 * MIB) + b"more"
    volume.kill()
    with contextlib.suppress(OSError):  # there is no reader any more
        os.close(descriptor)

    volume.mount()
    assert list(root.iterdir()) == []
    assert os.statvfs(root).f_bfree >= empty.f_bfree - 4
    assert os.statvfs(root).f_ffree == empty.f_ffree


def test_statfs_tells_size_and_use(volume: Volume) -> None:
    root = volume.mount("size=32M", "nr_inodes=1000")
    empty = os.statvfs(root)
    assert empty.f_frsize == PAGE
    assert empty.f_blocks * empty.f_frsize == pytest.approx(32 * MIB, abs=MIB)
    assert empty.f_files == 1000
    assert empty.f_namemax == 255

    (root / "file").write_bytes(sample_trees.noise(8 * MIB))
    syncfs(root)
    after = os.statvfs(root)
    assert (empty.f_bfree - after.f_bfree) * PAGE == pytest.approx(8 * MIB, abs=MIB // 4)
    assert empty.f_ffree - after.f_ffree == 1

    volume.remount("size=32M", "nr_inodes=1000")
    loaded = os.statvfs(root)
    assert (loaded.f_blocks, loaded.f_files) == (after.f_blocks, after.f_files)
    assert loaded.f_ffree == after.f_ffree
    assert loaded.f_bfree == pytest.approx(after.f_bfree, abs=100)


def test_file_handles_stay_valid(volume: Volume) -> None:
    root = volume.mount()
    (root / "directory").mkdir()
    (root / "directory" / "file").write_bytes(b"found by its handle")
    file, directory = handle_of(root / "directory" / "file"), handle_of(root / "directory")

    volume.remount()
    with os.fdopen(open_by_handle(root, file), "rb") as stream:
        assert stream.read() == b"found by its handle"
    descriptor = open_by_handle(root, directory)
    assert os.listdir(descriptor) == ["file"]
    os.close(descriptor)


def test_a_file_handle_never_reaches_another_file(volume: Volume) -> None:
    root = volume.mount()
    (root / "old").write_bytes(b"old")
    handle = handle_of(root / "old")
    (root / "old").unlink()
    volume.remount()
    for number in range(50):
        (root / f"new {number}").write_bytes(b"new")
    volume.remount()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        open_by_handle(root, handle)
    assert caught.value.errno == errno.ESTALE


def test_a_socket_and_a_fifo_work_and_come_back(volume: Volume) -> None:
    root = volume.mount()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server, _short(root) as directory:
        server.bind(f"{directory}/socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{directory}/socket")
    reader = os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    (root / "fifo").write_bytes(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)

    volume.remount()
    assert stat.S_ISSOCK((root / "socket").stat().st_mode)
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)


def test_inode_numbers_are_unique_and_stay(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    numbers = {path: path.stat().st_ino for path in root.rglob("*")}
    volume.remount()
    sample_trees.plant_files(root / "d1", 100)
    now = {path: path.stat().st_ino for path in root.rglob("*")}
    assert numbers.items() <= now.items()
    assert len(set(now.values())) == len(now) == 220


def test_random_changes_come_back(volume: Volume) -> None:
    """The bytes of one file after many writes and cuts of all sizes, each run of them remounted."""
    root = volume.mount()
    rng = random.Random(4)
    expected = bytearray()
    (root / "file").touch()
    for _ in range(3):
        with (root / "file").open("r+b", buffering=0) as file:
            for _ in range(300):
                _change(rng, file.fileno(), expected)
        assert (root / "file").read_bytes() == expected
        volume.remount()
        assert (root / "file").read_bytes() == expected


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    """A path of few bytes for a directory: those of sockets have a limit of 107."""
    descriptor = os.open(directory, os.O_PATH)
    yield f"/proc/self/fd/{descriptor}"
    os.close(descriptor)


def _change(rng: random.Random, descriptor: int, expected: bytearray) -> None:
    offset = rng.randrange(40 * PAGE)
    if rng.random() < 0.2:
        os.ftruncate(descriptor, offset)
        expected[offset:] = bytes(max(0, offset - len(expected)))
        return
    piece = rng.randbytes(rng.choice((1, 100, PAGE, 10_000)))
    os.pwrite(descriptor, piece, offset)
    expected.extend(bytes(max(0, offset - len(expected))))
    expected[offset : offset + len(piece)] = piece
