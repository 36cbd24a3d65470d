"""Snapshots as they are read in a running mount: below `.snapshots`, which nobody meets unasked."""

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, NOBODY, PAGE, Volume, pramfs, run, wait_until
from tests.mounted.sample_trees import noise
from tests.mounted.system import (
    RENAME_EXCHANGE,
    handle_of,
    open_by_handle,
    renameat2,
)
from tests.mounted.test_read_only import CHANGES, plant
from tests.support.renamed_in_image import rename_in_root

OWN = ".snapshots"

# A file may be opened to write, because the kernel does not ask; then nothing can be written.
NOT_REFUSED_AT_OPEN = {"open to write", "open to append"}


def take(volume: Volume, name: str, *options: str) -> Path:
    """Take a snapshot of a mounted volume, mount it again with options, and return where it is read."""
    pramfs("snapshot", volume.root, name).succeeded()
    if options:
        volume.remount(*options)
    return volume.root / OWN / name


def error_of(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "was done"


def test_a_snapshot_shows_all_that_was_there(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_everything(root)
    before = sample_trees.portable(sample_trees.snapshot(root))
    snapshot = take(volume, "one")
    run("find", root, "-mindepth", "1", "-delete").succeeded()
    for _ in range(2):
        assert list(root.iterdir()) == []
        sample_trees.assert_same(sample_trees.portable(sample_trees.snapshot(snapshot)), before)
        assert os.listdir(root / OWN) == ["one"]
        volume.remount()


def test_nothing_that_walks_the_tree_meets_the_snapshots(volume: Volume, tmp_path: Path) -> None:
    root = volume.mount()
    (root / "file").write_bytes(noise(MIB))
    take(volume, "one")
    os.listdir(root / OWN / "one")  # known to the kernel, and still in no listing
    assert run("ls", "-A", root).text == "file\n"
    assert run("find", root, "-mindepth", "1").text == f"{root}/file\n"
    assert int(run("du", "-s", "--apparent-size", "-B1", root).text.split()[0]) < 2 * MIB
    run("tar", "-cf", tmp_path / "tar", "-C", root, ".").succeeded()
    assert b".snapshots" not in (tmp_path / "tar").read_bytes()
    run("rsync", "-a", f"{root}/", tmp_path / "copy").succeeded()
    assert os.listdir(tmp_path / "copy") == ["file"]
    run("cp", "-a", root, tmp_path / "again").succeeded()
    assert os.listdir(tmp_path / "again") == ["file"]


def test_cp_brings_a_file_back_and_diff_finds_what_has_changed(volume: Volume) -> None:
    root = volume.mount()
    (root / "d").mkdir()
    (root / "d" / "file").write_bytes(noise(4 * MIB))
    (root / "same").write_bytes(b"same")
    snapshot = take(volume, "one")
    assert run("diff", "-r", snapshot, root).succeeded().text == ""
    (root / "d" / "file").write_bytes(b"changed")
    assert run("diff", "-rq", snapshot, root).text.split() == [
        *("Files", f"{snapshot}/d/file", "and", f"{root}/d/file", "differ"),
    ]
    volume.save()
    used = volume.status()["frames"]["used"]
    run("cp", snapshot / "d" / "file", root / "d" / "file").succeeded()
    run("cp", snapshot / "d" / "file", root / "d" / "second").succeeded()
    assert volume.status()["frames"]["used"] <= used, "the frames of the snapshot are shared"
    for _ in range(2):
        assert run("diff", "-rq", snapshot, root).text == f"Only in {root}/d: second\n"
        assert (root / "d" / "second").read_bytes() == noise(4 * MIB)
        volume.remount()


def test_numbers_are_those_of_no_other_file(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"1")
    (root / "link").hardlink_to(root / "file")
    first = take(volume, "one")
    second = take(volume, "two")
    seen = [
        (path / "file").stat()
        for path in (root, first, second)
        if (path / "file").samefile(path / "link")
    ]
    assert len({(status.st_dev, status.st_ino) for status in seen}) == 3
    listed = {entry.name: entry.inode() for entry in os.scandir(root / OWN)}
    assert listed == {name: (root / OWN / name).stat().st_ino for name in ("one", "two")}
    inodes = [run("find", top, "-printf", "%i\n").text.split() for top in (root, first, second)]
    flat = [number for numbers in inodes for number in set(numbers)]
    assert len(flat) == len(set(flat)) == 6


@pytest.mark.parametrize("options", [(), ("direct_io",), ("check_open",)], ids=str)
def test_every_change_is_refused(volume: Volume, options: tuple[str, ...]) -> None:
    root = volume.mount(*options)
    plant(root)
    snapshot = take(volume, "one", *options)
    changes = {
        name: CHANGES[name] for name in CHANGES if options or name not in NOT_REFUSED_AT_OPEN
    }
    before = sample_trees.snapshot(snapshot)
    told = {name: error_of(change, snapshot) for name, change in changes.items()}
    assert told == dict.fromkeys(changes, "EROFS")
    sample_trees.assert_same(sample_trees.snapshot(snapshot), before)
    volume.save()
    assert volume.status()["error"] == ""


def test_a_write_is_refused_when_it_is_made(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    file = take(volume, "one") / "file"
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_DIRECT):
        descriptor = os.open(file, flags)
        with mmap.mmap(-1, PAGE) as aligned:
            assert error_of(os.write, descriptor, aligned) == "EROFS"
        os.close(descriptor)
    assert run("sh", "-c", 'echo more >> "$1"', "sh", file).code != 0
    assert file.read_bytes() == b"kept"
    volume.save()


def test_what_is_written_to_mapped_memory_is_dropped_and_no_save_suffers(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept" + bytes(PAGE))
    file = take(volume, "one") / "file"
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        memory[0] = 1
        with pytest.raises(OSError, match=r"Read-only|Input/output"):
            memory.flush()
    (root / "other").touch()
    volume.save()
    assert volume.status()["error"] == ""
    wait_until(lambda: file.read_bytes() == b"kept" + bytes(PAGE), "what was written to be dropped")


def test_names_do_not_cross(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"1")
    (root / "mine").write_bytes(b"2")
    first = take(volume, "one")
    second = take(volume, "two")
    told = {
        error_of(lambda: (first / "file").rename(root / "new")),
        error_of(lambda: (root / "mine").rename(first / "new")),
        error_of(lambda: (first / "file").rename(second / "new")),
        error_of(lambda: renameat2(root / "mine", first / "file", RENAME_EXCHANGE)),
        error_of(lambda: (root / "new").hardlink_to(first / "file")),
        error_of(lambda: (first / "new").hardlink_to(root / "mine")),
        error_of(lambda: (second / "new").hardlink_to(first / "mine")),
    }
    assert told == {"EXDEV"}
    run("mv", first / "file", root / "new").refused(1, "read-only")  # of what it has copied
    assert (root / "new").read_bytes() == b"1"


def test_the_name_is_taken(volume: Volume) -> None:
    root = volume.mount()
    (root / "d").mkdir()
    name = root / OWN
    assert os.listdir(name) == []
    assert (name / "..").samefile(root)
    assert error_of(name.mkdir) == "EEXIST"
    assert error_of(lambda: name.symlink_to("d")) == "EEXIST"
    assert error_of(lambda: (root / "d").rename(name)) == "EEXIST"
    assert error_of(lambda: name.rename(root / "new")) == "EBUSY"
    assert error_of(lambda: renameat2(root / "d", name, RENAME_EXCHANGE)) in ("EBUSY", "ENOENT")
    assert error_of(name.rmdir) == "EBUSY"
    assert error_of((name / "new").mkdir) == "EROFS"
    assert error_of(lambda: (name / "new").write_bytes(b"")) == "EROFS"
    (root / "d" / OWN).mkdir()  # only in the root
    volume.remount()
    assert os.listdir(root) == ["d"]


def test_a_tree_keeps_a_directory_of_its_own_of_that_name(volume: Volume) -> None:
    root = volume.mount()
    (root / "own").mkdir()
    (root / "own" / "file").write_bytes(b"own")
    take(volume, "one")
    volume.umount()
    rename_in_root(volume.image, b"own", OWN.encode())
    volume.mount()
    assert os.listdir(root) == [OWN]
    (root / OWN / "file").write_bytes(b"changed")
    (root / OWN / "new").mkdir()
    volume.remount()
    assert sorted(os.listdir(root / OWN)) == ["file", "new"]
    (root / OWN).rename(root / "moved")
    assert (root / OWN / "one" / "own" / "file").read_bytes() == b"own"
    assert error_of(lambda: (root / "moved").rename(root / OWN)) == "EEXIST"
    volume.remount("snapshot=one")
    assert (root / "own" / "file").read_bytes() == b"own"


def test_permissions_are_those_of_the_snapshot(volume: Volume) -> None:
    root = volume.mount("allow_other")
    (root / "secret").write_bytes(b"secret")
    (root / "secret").chmod(0o600)
    (root / "open").write_bytes(b"open")
    (root / "acl").write_bytes(b"acl")
    (root / "acl").chmod(0o600)
    run("setfacl", "-m", f"u:{NOBODY}:r", root / "acl").succeeded()
    (root / "closed").mkdir(mode=0o700)
    (root / "closed" / "file").write_bytes(b"closed")
    snapshot = take(volume, "one", "allow_other")
    (root / "secret").chmod(0o644)

    def read(name: str) -> str:  # from within, as others have no way into the directories of tests
        return run("cat", name, user=NOBODY, cwd=snapshot).text

    assert [read(name) for name in ("secret", "closed/file", "open", "acl")] == [
        "",
        "",
        "open",
        "acl",
    ]
    assert run("ls", OWN, user=NOBODY, cwd=root).text == "one\n"


def test_handles_and_symlinks_and_parents(volume: Volume) -> None:
    root = volume.mount()
    (root / "d").mkdir()
    (root / "d" / "file").write_bytes(b"content")
    (root / "link").symlink_to("d/file")
    snapshot = take(volume, "one")
    assert (snapshot / "link").read_bytes() == b"content"
    assert (snapshot / "d" / ".." / ".." / ".." / "d").samefile(root / "d")
    assert run("pwd", "-P", cwd=snapshot / "d").text == f"{snapshot / 'd'}\n"
    handle = handle_of(snapshot / "d" / "file")
    descriptor = open_by_handle(root, handle)
    assert os.read(descriptor, 100) == b"content"
    os.close(descriptor)
    assert os.statvfs(snapshot).f_blocks == os.statvfs(root).f_blocks


def test_holes_and_sizes(volume: Volume) -> None:
    root = volume.mount()
    with (root / "sparse").open("wb") as file:
        file.seek(MIB)
        file.write(b"data")
    snapshot = take(volume, "one")
    with (snapshot / "sparse").open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == MIB
        assert os.lseek(file.fileno(), MIB, os.SEEK_HOLE) == MIB + 4
    assert (snapshot / "sparse").stat().st_blocks == 8
    run("cp", snapshot / "sparse", root / "copy").succeeded()
    assert (root / "copy").read_bytes() == bytes(MIB) + b"data"


def test_a_snapshot_is_let_go_when_the_kernel_has_forgotten_it(volume: Volume) -> None:
    root = volume.mount()
    (root / "d").mkdir()
    (root / "d" / "file").write_bytes(b"content")
    snapshot = take(volume, "one")
    numbers = set()
    for _ in range(3):
        assert (snapshot / "d" / "file").read_bytes() == b"content"
        numbers.add((snapshot / "d" / "file").stat().st_ino)
        Path("/proc/sys/vm/drop_caches").write_text("2")
    assert len(numbers) == 1, "a file that is looked up again has the number that it had"


def test_a_mount_with_ro_shows_snapshots(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"content")
    snapshot = take(volume, "one", "ro")
    assert (snapshot / "file").read_bytes() == b"content"
    assert error_of(lambda: (snapshot / "file").write_bytes(b"")) == "EROFS"


def test_a_snapshot_is_there_at_once_and_gone_at_once(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"first")
    file = root / OWN / "one" / "file"
    for content in (b"first", b"second"):
        assert not file.exists()  # which the kernel must not remember
        (root / "file").write_bytes(content)
        take(volume, "one")
        assert file.read_bytes() == content
        (root / "file").write_bytes(b"changed")
        assert file.read_bytes() == content
        pramfs("free", root, "pramfs@one").succeeded()
        assert os.listdir(root / OWN) == []
    assert not file.exists()


def test_who_reads_a_snapshot_that_is_freed_reads_on(volume: Volume) -> None:
    root = volume.mount()
    content = noise(8 * MIB)
    (root / "file").write_bytes(content)
    (root / "d").mkdir()
    (root / "d" / "other").write_bytes(b"other")
    snapshot = take(volume, "one")
    (root / "file").unlink()
    with (snapshot / "file").open("rb") as file:
        directory = os.open(snapshot / "d", os.O_RDONLY)
        assert file.read(MIB) == content[:MIB]
        pramfs("free", root, "pramfs@one").succeeded()
        (root / "new").write_bytes(noise(40 * MIB, seed=1))  # most of the image
        volume.save()
        (root / "file").write_bytes(b"anew")
        again = take(volume, "one")
        assert (again / "file").read_bytes() == b"anew"
        run("sh", "-c", "echo 1 > /proc/sys/vm/drop_caches").succeeded()
        assert file.read() == content[MIB:]
        assert sorted(os.listdir(directory)) == ["other"]
        found = os.open("other", os.O_RDONLY, dir_fd=directory)
        assert os.read(found, 10) == b"other"
        os.close(found)
        os.close(directory)
    volume.save()
    volume.remount()
    assert (again / "file").read_bytes() == b"anew"
    assert (root / "new").read_bytes() == noise(40 * MIB, seed=1)


def test_the_frames_of_a_freed_snapshot_come_back_after_it_was_looked_at(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(noise(8 * MIB))
    snapshot = take(volume, "one")
    (root / "file").unlink()
    assert (snapshot / "file").read_bytes() == noise(8 * MIB)
    volume.save()
    used = volume.status()["frames"]["used"]
    pramfs("free", root, "pramfs@one").succeeded()

    def came_back() -> bool:
        return bool(volume.status()["frames"]["used"] < used - 8 * MIB // PAGE)

    wait_until(came_back, "the frames to come back")


def test_a_copy_of_a_whole_snapshot(volume: Volume, tmp_path: Path) -> None:
    root = volume.mount()
    sample_trees.plant_everything(root)
    before = sample_trees.portable(sample_trees.snapshot(root))
    snapshot = take(volume, "one")
    run("rsync", "-aHAX", f"{snapshot}/", root / "copy").succeeded()
    sample_trees.assert_same_below(
        sample_trees.portable(sample_trees.snapshot(root / "copy")), before
    )
    run("tar", "-C", snapshot, "-cf", tmp_path / "tar", ".").succeeded()
