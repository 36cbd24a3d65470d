"""The content of files: appends, holes, mappings, direct and synchronous I/O, files without a name."""

import faulthandler
import mmap
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, MIB, PAGE, run, wait_until
from tests.mounted.posix.scene import ROOT, errno_of, run_as
from tests.mounted.system import syncfs

FS_IOC_GETFLAGS = 0x80086601
NOISE = random.Random(3).randbytes(2 * MIB)

# What is written where into an empty file, then to what size it is truncated (-1: not at all).
CONTENTS: dict[str, tuple[list[tuple[int, int]], int]] = {
    "nothing": ([], -1),
    "a byte": ([(0, 1)], -1),
    "a page": ([(0, PAGE)], -1),
    "a page and a byte": ([(0, PAGE + 1)], -1),
    "two megabytes": ([(0, 2 * MIB)], -1),
    "a hole, then a byte": ([(MIB, 1)], -1),
    "a byte, then a hole": ([(0, 1)], MIB),
    "only a hole": ([], MIB + 1),
    "across pages": ([(PAGE - 1, 2), (5 * PAGE - 10, 20)], -1),
    "one over another": ([(0, 10_000), (5_000, 10_000)], -1),
    "backwards": ([(8 * PAGE, PAGE), (4 * PAGE, PAGE), (0, PAGE)], -1),
    "cut in a page": ([(0, 10_000)], 5_000),
    "cut at a page": ([(0, 10_000)], PAGE),
    "cut to nothing": ([(0, 10_000)], 0),
    "cut and extended": ([(0, 10_000), (20_000, 1)], 5_000),
    "far away": ([((1 << 40) + 17, 100)], -1),
}


@pytest.mark.parametrize(("writes", "size"), CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("flags", [0, os.O_SYNC, os.O_DSYNC], ids=["", "O_SYNC", "O_DSYNC"])
def test_a_file_holds_what_was_written(
    fs: Path, writes: list[tuple[int, int]], size: int, flags: int
) -> None:
    path = fs / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR | flags)
    end = 0
    for offset, count in writes:
        assert os.pwrite(fd, NOISE[:count], offset) == count
        end = max(end, offset + count)
    if size >= 0:
        os.ftruncate(fd, size)
        end = size
    os.close(fd)
    start = max(0, end - 4 * MIB)
    expected = bytearray(end - start)
    for offset, count in writes:
        piece = NOISE[:count][: max(0, end - offset)]
        expected[offset - start : offset - start + len(piece)] = piece
    with path.open("rb") as file:
        assert file.seek(0, os.SEEK_END) == end == path.stat().st_size
        assert os.pread(file.fileno(), len(expected), start) == expected
        assert os.pread(file.fileno(), 10, end) == b""


def test_what_was_cut_off_is_zeros_when_the_file_grows_again(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(b"x" * 10_000)
    os.truncate(path, 4_097)
    os.truncate(path, 10_000)
    assert path.read_bytes() == b"x" * 4_097 + bytes(5_903)


def test_st_blocks_count_pages_that_hold_data(fs: Path) -> None:
    path = fs / "file"
    blocks: list[int] = []

    def write(offset: int, count: int) -> None:
        with path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x" * count, offset)
        blocks.append(path.stat().st_blocks)

    path.touch()
    write(0, 1)
    write(1, 100)
    write(10 * PAGE, 3 * PAGE)
    write(5 * PAGE, 1)
    write(10 * PAGE, 3 * PAGE)
    os.truncate(path, 11 * PAGE)
    blocks.append(path.stat().st_blocks)
    os.truncate(path, 100 * MIB)
    blocks.append(path.stat().st_blocks)
    os.truncate(path, 0)
    blocks.append(path.stat().st_blocks)
    assert blocks == [8, 8, 32, 40, 40, 24, 24, 0]


def test_du_and_df_agree(fs: Path) -> None:
    def used() -> tuple[int, int]:
        seen = os.statvfs(fs)
        du = run("du", "-s", "--block-size=4096", fs).succeeded()
        return (seen.f_blocks - seen.f_bfree), int(du.text.split()[0])

    syncfs(fs)
    df_before, du_before = used()
    for number in range(20):
        (fs / f"f{number}").write_bytes(NOISE[: number * 10_000])
    syncfs(fs)
    df_after, du_after = used()
    files = [path.stat().st_blocks // 8 for path in fs.iterdir()]
    assert du_after - du_before == sum(files) == sum(-(-n * 10_000 // PAGE) for n in range(20))
    # Directories and metadata take room, too.
    assert 0 <= df_after - df_before - sum(files) <= 8


def test_statvfs_tells_the_limits(fs: Path) -> None:
    seen = os.statvfs(fs)
    assert (seen.f_bsize, seen.f_frsize, seen.f_namemax) == (PAGE, PAGE, 255)
    assert 0 < seen.f_bavail <= seen.f_bfree <= seen.f_blocks
    assert 0 < seen.f_ffree <= seen.f_files


def test_appends_of_two_processes_do_not_overwrite_each_other(fs: Path) -> None:
    path = fs / "log"
    path.touch()
    children = []
    for letter in b"abc":
        pid = os.fork()
        if not pid:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for _ in range(300):
                os.write(fd, bytes([letter]) * 37 + b"\n")
            os._exit(0)
        children.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == sorted(bytes([letter]) * 37 for letter in b"abc" * 300)


def test_appends_with_o_direct(fs: Path) -> None:
    fd = os.open(fs / "file", os.O_CREAT | os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
    for size in (PAGE, 512, 100):
        assert os.write(fd, NOISE[:size]) == size
    os.close(fd)
    assert (fs / "file").read_bytes() == NOISE[:PAGE] + NOISE[:512] + NOISE[:100]


def test_o_append_ignores_the_offset(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(b"12345")
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"6")
    os.close(fd)
    assert path.read_bytes() == b"123456"


def test_an_open_file_outlives_its_names(fs: Path) -> None:
    path = fs / "file"
    with path.open("w+b", buffering=0) as file:
        file.write(NOISE)
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"more")
        os.fchmod(file.fileno(), 0o600)
        assert os.pread(file.fileno(), 3 * MIB, 0) == NOISE + b"more"
        path.write_bytes(b"another")
        assert os.pread(file.fileno(), 10, 0) == NOISE[:10]
    assert path.read_bytes() == b"another"


def test_rename_over_an_open_file_leaves_it_readable(fs: Path) -> None:
    (fs / "old").write_bytes(b"old")
    (fs / "new").write_bytes(b"new")
    with (fs / "old").open("rb") as file:
        (fs / "new").rename(fs / "old")
        assert file.read() == b"old"
    assert (fs / "old").read_bytes() == b"new"


def test_an_unlinked_file_can_be_opened_again_through_proc(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(NOISE)
    with path.open("rb") as file:
        path.unlink()
        again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)
    assert os.pwrite(again, b"new", 5) == 3
    assert os.pread(again, 3 * MIB, 0) == NOISE[:5] + b"new" + NOISE[8:]
    os.close(again)


def test_a_file_that_is_replaced_while_it_is_written_keeps_what_is_written(fs: Path) -> None:
    (fs / "old").write_bytes(b"old")
    (fs / "new").write_bytes(b"new")
    with (fs / "old").open("r+b", buffering=0) as old, (fs / "new").open("r+b", buffering=0) as new:
        (fs / "new").rename(fs / "old")
        os.pwrite(old.fileno(), b"gone", 0)
        os.pwrite(new.fileno(), b"kept", 0)
        assert os.pread(old.fileno(), 10, 0) == b"gone"
    assert (fs / "old").read_bytes() == b"kept"


def test_an_unlinked_file_gives_its_space_back_when_it_is_closed(fs: Path) -> None:
    with (fs / "file").open("wb", buffering=0) as file:
        file.write(NOISE * 4)
        os.fsync(file.fileno())
        (fs / "file").unlink()
        full = os.statvfs(fs).f_bfree
    # The kernel forgets the file when it pleases.
    wait_until(lambda: os.statvfs(fs).f_bfree - full >= 8 * MIB // PAGE, "the space")


@pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_COPY], ids=["shared", "private"])
def test_a_mapping_and_write_see_each_other(fs: Path, access: int) -> None:
    path = fs / "file"
    path.write_bytes(NOISE[: 3 * PAGE])
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=access) as view:
        os.pwrite(file.fileno(), b"written", 100)
        assert view[100:107] == b"written"
        view[2 * PAGE : 2 * PAGE + 6] = b"mapped"
        seen = os.pread(file.fileno(), 6, 2 * PAGE)
        assert seen == (
            b"mapped" if access == mmap.ACCESS_WRITE else NOISE[2 * PAGE : 2 * PAGE + 6]
        )
    assert path.read_bytes()[2 * PAGE : 2 * PAGE + 6] == seen


def test_processes_share_a_mapping(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(bytes(PAGE))

    def change() -> None:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
            assert theirs[:5] == b"first"
            theirs[10:16] = b"second"

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as ours:
        ours[:5] = b"first"
        run_as(ROOT, change)
        assert ours[10:16] == b"second"


def test_a_mapping_past_the_end_is_zeros_and_what_is_put_there_is_not_kept(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(b"x" * 2 * PAGE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 2 * PAGE) as view:
        os.ftruncate(file.fileno(), PAGE + 100)
        assert view[PAGE:] == b"x" * 100 + bytes(PAGE - 100)
        view[PAGE + 100 : PAGE + 105] = b"waste"
        view.flush()
        os.fsync(file.fileno())
    assert path.read_bytes() == b"x" * (PAGE + 100)


def test_a_mapping_outlives_name_and_descriptor(fs: Path) -> None:
    path = fs / "file"
    path.write_bytes(NOISE[:PAGE])
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), PAGE)
    path.unlink()
    view[:4] = b"1234"
    assert view[:8] == b"1234" + NOISE[4:8]
    view.close()


def test_what_is_mapped_past_the_last_page_is_a_bus_error(fs: Path) -> None:
    (fs / "file").write_bytes(bytes(2 * PAGE))
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()  # which pytest has enabled: this is no news
        with (fs / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            os.ftruncate(file.fileno(), PAGE)
            os._exit(view[PAGE])
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGBUS


@pytest.mark.parametrize("offset", [0, 1, 511, PAGE - 1, 9_000])
@pytest.mark.parametrize("size", [1, 513, PAGE, 5_000])
def test_direct_io_needs_no_alignment(fs: Path, offset: int, size: int) -> None:
    (fs / "file").write_bytes(NOISE[:10_000])
    fd = os.open(fs / "file", os.O_RDWR | os.O_DIRECT)
    assert os.pread(fd, size, offset) == NOISE[:10_000][offset : offset + size]
    assert os.pwrite(fd, b"x" * size, offset) == size
    os.close(fd)
    expected = NOISE[:offset] + b"x" * size + NOISE[offset + size : 10_000]
    assert (fs / "file").read_bytes() == expected


@pytest.mark.parametrize("size", [512, PAGE, 64 * KIB, 2 * MIB])
def test_direct_io_and_cached_io_see_each_other(fs: Path, size: int) -> None:
    path = fs / "file"
    path.write_bytes(NOISE)
    with mmap.mmap(-1, size) as aligned:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        assert os.preadv(fd, [aligned], 0) == size
        assert aligned[:] == NOISE[:size]
        aligned[:4] = b"1234"
        assert os.pwritev(fd, [aligned], 0) == size
        os.close(fd)
    assert path.read_bytes() == b"1234" + NOISE[4:]


def test_vectors_and_sendfile_and_splice(fs: Path) -> None:
    with (fs / "from").open("w+b", buffering=0) as source, (fs / "to").open("w+b") as target:
        assert os.writev(source.fileno(), [NOISE[:10], b"", NOISE[10:MIB]]) == MIB
        done = 0
        while done < MIB:
            done += os.sendfile(target.fileno(), source.fileno(), done, MIB - done)
        assert os.pread(target.fileno(), MIB, 0) == NOISE[:MIB]
        reader, writer = os.pipe()
        os.write(writer, NOISE[: 60 * KIB])
        assert os.splice(reader, target.fileno(), 60 * KIB, offset_dst=MIB) == 60 * KIB
        os.close(reader)
        os.close(writer)
        assert os.pread(target.fileno(), MIB, MIB) == NOISE[: 60 * KIB]


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
def test_files_and_directories_can_be_synced(fs: Path, sync: Callable[[int], None]) -> None:
    (fs / "file").write_bytes(b"x")
    for path in (fs / "file", fs):
        fd = os.open(path, os.O_RDONLY)
        sync(fd)
        os.close(fd)


def test_a_file_opened_to_write_only_is_not_read(fs: Path) -> None:
    (fs / "file").write_bytes(NOISE[:100])
    fd = os.open(fs / "file", os.O_WRONLY)
    os.pwrite(fd, b"x", 50)  # makes the kernel read the page, to write it whole
    assert errno_of(lambda: os.read(fd, 1)) == "EBADF"
    os.close(fd)
    assert (fs / "file").read_bytes() == NOISE[:50] + b"x" + NOISE[51:100]


def test_fifos_connect_processes(fs: Path) -> None:
    os.mkfifo(fs / "fifo")
    pid = os.fork()
    if not pid:
        (fs / "fifo").write_bytes(NOISE[:100_000])
        os._exit(0)
    assert (fs / "fifo").read_bytes() == NOISE[:100_000]
    os.waitpid(pid, 0)
    assert (fs / "fifo").stat().st_size == 0


def _seek_to_end(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


# What never reaches the daemon, or not whole: what tmpfs answers, and pramfs. "" = it works.
UNSUPPORTED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "setxattr with XATTR_CREATE and XATTR_REPLACE of what is missing": (
        lambda d: os.setxattr(d / "file", "user.x", b"", os.XATTR_CREATE | os.XATTR_REPLACE),
        "ENODATA",
        "ENODATA",
    ),
    "lseek to the end of a directory": (_seek_to_end, "EINVAL", ""),
}


@pytest.mark.parametrize(
    ("call", "on_tmpfs", "on_pramfs"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys()
)
def test_what_a_pramfs_does_instead(
    kind: str, fs: Path, call: Callable[[Path], object], on_tmpfs: str, on_pramfs: str
) -> None:
    (fs / "file").write_bytes(b"content")
    assert errno_of(lambda: call(fs)) == (on_tmpfs if kind == "tmpfs" else on_pramfs)
