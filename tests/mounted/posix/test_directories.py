"""Directories: what a listing holds while they change, link counts, inode numbers, file handles."""

import ctypes
import os
import random
import stat
from pathlib import Path

import pytest

from tests.mounted.harness import run, wait_until
from tests.mounted.posix.scene import ALICE, errno_of, open_close, run_as
from tests.mounted.system import RENAME_WHITEOUT, handle_of, open_by_handle, renameat2


class Stream:
    """A DIR of the C library: what os.scandir does not show, telldir and seekdir."""

    class _Entry(ctypes.Structure):
        _fields_ = (
            ("ino", ctypes.c_uint64),
            ("offset", ctypes.c_int64),
            ("length", ctypes.c_uint16),
            ("type", ctypes.c_uint8),
            ("name", ctypes.c_char * 256),
        )

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.opendir.restype = ctypes.c_void_p
        self._libc.readdir.restype = ctypes.POINTER(self._Entry)
        self._libc.telldir.restype = ctypes.c_long
        self._dir = ctypes.c_void_p(self._libc.opendir(bytes(path)))
        assert self._dir.value, path

    def read(self) -> str | None:
        entry = self._libc.readdir(self._dir)
        return os.fsdecode(entry.contents.name) if entry else None

    def inodes(self) -> dict[str, int]:
        """The numbers of the inodes that are listed, by name."""
        found = {}
        while entry := self._libc.readdir(self._dir):
            found[os.fsdecode(entry.contents.name)] = int(entry.contents.ino)
        return found

    def rest(self) -> list[str]:
        return list(iter(self.read, None))

    def tell(self) -> int:
        return int(self._libc.telldir(self._dir))

    def seek(self, position: int) -> None:
        self._libc.seekdir(self._dir, ctypes.c_long(position))

    def rewind(self) -> None:
        self._libc.rewinddir(self._dir)

    def close(self) -> None:
        self._libc.closedir(self._dir)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_listing_has_every_name_once(fs: Path, count: int) -> None:
    names = {f"n{number}" for number in range(count)}
    for name in names:
        (fs / name).touch()
    stream = Stream(fs)
    assert sorted(stream.rest()) == sorted({".", "..", *names})
    stream.close()


def test_every_entry_tells_kind_and_inode(scene: Path) -> None:
    with os.scandir(scene) as entries:
        for entry in entries:
            seen = (scene / entry.name).lstat()
            assert entry.inode() == seen.st_ino
            assert entry.is_symlink() == stat.S_ISLNK(seen.st_mode)
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(seen.st_mode)
            assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(seen.st_mode)


@pytest.mark.parametrize("listed_before", [0, 1, 2], ids=["new", "listed", "listed twice"])
@pytest.mark.parametrize("change", ["create", "unlink", "rename", "replace"])
def test_a_listing_of_a_changing_directory_loses_and_doubles_nothing(
    fs: Path, change: str, listed_before: int, long: bool
) -> None:
    count = 200_000 if long else 5_000
    for number in range(count):
        os.close(os.open(f"{fs}/keep{number}", os.O_CREAT))
        if change != "create" and not number % 10:
            os.close(os.open(f"{fs}/go{number}", os.O_CREAT))
    for _ in range(listed_before):
        os.listdir(fs)
    rng = random.Random(1)
    seen: list[str] = []
    stream = Stream(fs)
    for step, name in enumerate(iter(stream.read, None)):
        seen.append(name)
        if step % 10:
            continue
        number = rng.randrange(count) // 10 * 10
        victim = f"{fs}/go{number}"
        if change == "create":
            os.close(os.open(f"{fs}/new{step}", os.O_CREAT))
        elif not os.path.lexists(victim):
            continue
        elif change == "unlink":
            os.unlink(victim)
        elif change == "rename":
            os.rename(victim, f"{fs}/moved{step}")
        else:
            os.rename(victim, f"{fs}/go{rng.randrange(count) // 10 * 10}")
    stream.close()
    assert len(seen) == len(set(seen)), "a name came twice"
    missing = {f"keep{number}" for number in range(count)} - set(seen)
    assert not missing, "names that were there all the time"


@pytest.mark.parametrize("listed_before", [0, 1, 2])
def test_a_listing_goes_on_when_the_cached_one_is_dropped(fs: Path, listed_before: int) -> None:
    """The kernel drops it when another listing begins after a change, or when memory is short."""
    names = [f"n{number}" for number in range(5_000)]
    for name in names:
        (fs / name).touch()
    for _ in range(listed_before):
        os.listdir(fs)
    stream = Stream(fs)
    seen = [stream.read() for _ in range(2_000)]
    gone = [name for name in seen[:1_500] if name is not None and not name.startswith(".")]
    for name in gone:
        (fs / name).unlink()
    assert sorted(os.listdir(fs)) == sorted(set(names) - set(gone))
    seen += stream.rest()
    assert len(seen) == len(set(seen)), "a name came twice"
    assert set(names) <= set(seen), "names that were there all the time"
    stream.close()


def test_removing_while_listing_empties_a_directory(fs: Path) -> None:
    for number in range(3_000):
        (fs / f"n{number}").touch()
    stream = Stream(fs)
    for name in iter(stream.read, None):
        if name not in {".", ".."}:
            (fs / name).unlink()
    stream.close()
    assert os.listdir(fs) == []


@pytest.mark.parametrize("listed_before", [0, 1, 2], ids=["new", "listed", "listed twice"])
def test_seekdir_returns_to_where_telldir_was(fs: Path, listed_before: int) -> None:
    for number in range(500):
        (fs / f"n{number}").touch()
    for _ in range(listed_before):
        os.listdir(fs)
    stream = Stream(fs)
    positions, names = [], []
    while True:
        positions.append(stream.tell())
        name = stream.read()
        if name is None:
            break
        names.append(name)
    for at in (0, 1, 2, 3, 250, 499, 501):
        stream.seek(positions[at])
        assert stream.rest() == names[at:]
    stream.rewind()
    assert stream.rest() == names
    stream.close()


def test_a_position_is_good_for_another_stream_while_nothing_changes(fs: Path) -> None:
    for number in range(500):
        (fs / f"n{number}").touch()
    first, second = Stream(fs), Stream(fs)
    for _ in range(100):
        first.read()
    second.seek(first.tell())
    assert second.rest() == first.rest()
    first.close()
    second.close()


def test_a_position_belongs_to_a_name_as_long_as_that_exists(fs: Path, long: bool) -> None:
    count = 70_000 if long else 7_000
    for number in range(count):
        os.close(os.open(f"{fs}/n{number}", os.O_CREAT))
    stream = Stream(fs)
    positions: dict[str, int] = {}
    while True:
        position = stream.tell()
        name = stream.read()
        if name is None:
            break
        positions[name] = position
    assert len(positions) == count + 2
    for number in range(0, count, 3):
        os.unlink(f"{fs}/n{number}")
        os.close(os.open(f"{fs}/new{number}", os.O_CREAT))
    seen = set(os.listdir(fs))
    assert len(seen) == count
    for number in random.Random(1).sample(range(count), 100):
        stream.seek(positions[f"n{number}"])
        if number % 3:
            assert stream.read() == f"n{number}"
    kept = {f"n{number}" for number in range(count) if number % 3}
    stream.seek(positions["."])
    rest = stream.rest()
    assert len(rest) == len(set(rest)), "a name came twice"
    assert not kept - set(rest), "names that were there all the time"
    stream.close()


def test_rm_removes_what_has_been_listed(fs: Path) -> None:
    for number in range(20):
        (fs / "top" / f"dir{number}").mkdir(parents=True)
        for other in range(100):
            (fs / "top" / f"dir{number}" / f"file{other}").touch()
    for _ in range(3):
        assert sum(len(files) for _, _, files in os.walk(fs)) == 2_000
    run("rm", "-r", fs / "top").succeeded()
    assert os.listdir(fs) == []


def test_a_listing_shows_every_change_since_the_last_one(fs: Path) -> None:
    """However often the directory was listed before, so that its listing is cached."""

    def listed() -> set[str]:
        return {"".join(os.listdir(fs)) for _ in range(4)}

    (fs / "a").touch()
    assert listed() == {"a"}
    (fs / "a").rename(fs / "b")
    assert listed() == {"b"}
    (fs / "b").unlink()
    assert listed() == {""}
    (fs / "c").mkdir()
    assert listed() == {"c"}
    (fs / "c").rmdir()
    os.symlink("x", fs / "d")
    assert listed() == {"d"}


def test_a_listing_shows_where_a_directory_was_moved(fs: Path) -> None:
    (fs / "a" / "sub").mkdir(parents=True)
    (fs / "b").mkdir()

    def parents() -> set[int]:
        found = set()
        for _ in range(4):
            stream = Stream(fs / "sub" if (fs / "sub").exists() else fs / "a" / "sub")
            found.add(stream.inodes()[".."])
            stream.close()
        return found

    assert parents() == {(fs / "a").stat().st_ino}
    (fs / "a" / "sub").rename(fs / "sub")
    assert parents() == {fs.stat().st_ino}


def test_seekdir_returns_past_what_is_gone(fs: Path) -> None:
    for number in range(500):
        (fs / f"n{number}").touch()
    stream = Stream(fs)
    names = [stream.read() for _ in range(252)]
    position = stream.tell()
    rest = stream.rest()
    for name in [*names[2:100], *rest[:10]]:
        (fs / f"{name}").unlink()
    (fs / "new").touch()
    stream.seek(position)
    assert [name for name in stream.rest() if name != "new"] == rest[10:]
    stream.close()


def test_rewinddir_shows_what_came_since(fs: Path) -> None:
    (fs / "old").touch()
    stream = Stream(fs)
    stream.rest()
    (fs / "new").touch()
    (fs / "old").unlink()
    stream.rewind()
    assert sorted(stream.rest()) == [".", "..", "new"]
    stream.close()


def test_a_removed_directory_that_is_open_is_empty(fs: Path) -> None:
    (fs / "dir").mkdir()
    stream = Stream(fs / "dir")
    (fs / "dir").rmdir()
    assert stream.rest() in ([], [".", ".."])
    stream.close()


def test_link_counts_of_directories(fs: Path) -> None:
    counts: list[tuple[int, int]] = []

    def note() -> None:
        other = (fs / "b").stat().st_nlink if (fs / "b").exists() else 0
        counts.append(((fs / "a").stat().st_nlink, other))

    (fs / "a").mkdir()
    note()
    (fs / "a" / "file").touch()
    (fs / "a" / "sub").mkdir()
    note()
    (fs / "b").mkdir()
    (fs / "a" / "sub").rename(fs / "b" / "sub")
    note()
    (fs / "a" / "sub").mkdir()
    (fs / "a" / "sub").rename(fs / "b" / "sub")
    note()
    (fs / "b" / "sub").rmdir()
    note()
    assert counts == [(2, 0), (3, 0), (2, 3), (2, 3), (2, 2)]
    with_open = os.open(fs / "b", os.O_RDONLY)
    (fs / "b").rmdir()
    assert os.fstat(with_open).st_nlink == 0
    os.close(with_open)


def test_the_size_of_a_directory_counts_its_entries(fs: Path) -> None:
    sizes = [fs.stat().st_size]
    for change in (
        (fs / "file").touch,
        (fs / "a name of many bytes").mkdir,
        lambda: (fs / "file").rename(fs / "file2"),
        (fs / "file2").unlink,
    ):
        change()
        sizes.append(fs.stat().st_size)
    assert sizes == [40, 60, 80, 80, 60]


def test_a_removed_directory_is_still_one(fs: Path) -> None:
    (fs / "dir").mkdir()
    fd = os.open(fs / "dir", os.O_RDONLY)
    (fs / "dir").rmdir()
    os.fchmod(fd, 0o700)
    os.fchown(fd, 1, 2)
    seen = os.fstat(fd)
    assert (seen.st_nlink, seen.st_mode, seen.st_uid) == (0, stat.S_IFDIR | 0o700, 1)
    assert os.stat("..", dir_fd=fd).st_ino == fs.stat().st_ino
    os.close(fd)


def test_dot_dot_follows_a_moved_directory(fs: Path) -> None:
    (fs / "a" / "sub").mkdir(parents=True)
    (fs / "b").mkdir()
    (fs / "a" / "sub").rename(fs / "b" / "sub")
    assert os.stat(f"{fs}/b/sub/..").st_ino == (fs / "b").stat().st_ino


def test_a_whiteout_is_a_device_of_no_number_that_nobody_may_open(fs: Path) -> None:
    """What an overlayfs leaves for a name of its lower layer that is gone; see renameat2(2)."""
    (fs / "dir").mkdir()
    os.chown(fs / "dir", ALICE.uid, ALICE.gid)
    (fs / "dir" / "name").mkdir()
    os.chown(fs / "dir" / "name", ALICE.uid, ALICE.gid)
    before = (fs / "dir").stat().st_nlink
    run_as(ALICE, lambda: renameat2(fs / "dir" / "name", fs / "dir" / "new", RENAME_WHITEOUT))
    seen = (fs / "dir" / "name").lstat()
    assert (seen.st_mode, seen.st_rdev, seen.st_nlink) == (stat.S_IFCHR, 0, 1)
    assert (seen.st_uid, seen.st_gid) == (ALICE.uid, ALICE.gid)
    assert (fs / "dir" / "new").is_dir()
    assert (fs / "dir").stat().st_nlink == before


def test_hard_links_are_one_file(fs: Path) -> None:
    for name in ("file", "link"):
        os.symlink("x", fs / name) if name == "link" else open_close(fs / name, os.O_CREAT)
        for number in range(50):
            os.link(fs / name, fs / f"{name}{number}", follow_symlinks=False)
        assert (fs / name).lstat().st_nlink == 51
        assert len({path.lstat().st_ino for path in fs.glob(f"{name}*")}) == 1
        for number in range(50):
            (fs / f"{name}{number}").unlink()
        assert (fs / name).lstat().st_nlink == 1


def test_inode_numbers_are_unique_and_stay_over_renames(fs: Path) -> None:
    for number in range(100):
        (fs / f"n{number}").touch()
    inos = {path.stat().st_ino for path in fs.iterdir()}
    assert len(inos) == 100
    ino = (fs / "n0").stat().st_ino
    (fs / "n0").rename(fs / "n1")
    assert (fs / "n1").stat().st_ino == ino


def test_a_file_handle_reaches_its_file_and_no_other(fs: Path) -> None:
    (fs / "file").write_bytes(b"1")
    (fs / "dir").mkdir()
    file, directory = handle_of(fs / "file"), handle_of(fs / "dir")
    (fs / "file").rename(fs / "dir" / "moved")
    fd = open_by_handle(fs, file)
    assert os.read(fd, 10) == b"1"
    os.close(fd)
    fd = open_by_handle(fs, directory, os.O_RDONLY | os.O_DIRECTORY)
    assert os.listdir(fd) == ["moved"]
    os.close(fd)
    (fs / "dir" / "moved").unlink()
    (fs / "file").write_bytes(b"2")
    # A sync(2) of anybody may hold the inode a little longer.
    wait_until(lambda: errno_of(lambda: os.close(open_by_handle(fs, file))) == "ESTALE", "ESTALE")
