"""`pramfs clone`, in a directory of any file system that has copy_file_range(2).

What it shares is in tests/mounted/test_clone_trees.py.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pramfs.cli.main import main
from pramfs.control import clone as module
from pramfs.control.clone import clone
from pramfs.errors import EXIT_FAILED, PramError
from pramfs.system import mountinfo
from tests.golden.specimen import NS


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file system for a pramfs."""
    monkeypatch.setattr(mountinfo, "filesystem_type", lambda device: mountinfo.FSTYPE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with two names of one file in it."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_bytes(b"data" * 5000)
    os.setxattr(tree / "sub/file", "user.note", b"kept")
    (tree / "empty").touch(0o400)
    (tree / "twice").hardlink_to(tree / "sub/file")
    (tree / "link").symlink_to("nowhere")
    os.mkfifo(tree / "fifo", 0o620)
    for path in (tree / "sub/file", tree / "link", tree / "sub"):
        os.utime(path, ns=(123 * NS + 456, -7 * NS + 89), follow_symlinks=False)
    (tree / "sub").chmod(0o555)
    return tree


def looks(path: Path) -> dict[str, Any]:
    """What a clone of `path` has to have, by path."""
    found: dict[str, Any] = {}
    for below in (path, *path.rglob("*")):
        status = below.lstat()
        content = below.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(below.relative_to(path))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content,
            status.st_nlink, status.st_rdev, os.readlink(below) if below.is_symlink() else "",
            {name: os.getxattr(below, name) for name in os.listxattr(below, follow_symlinks=False)},
        )  # fmt: skip
    return found


def test_a_tree_is_cloned_with_everything(tree: Path, tmp_path: Path) -> None:
    assert main(["clone", str(tree), str(tmp_path / "copy")]) == 0
    copy = tmp_path / "copy"
    assert looks(copy) == looks(tree)
    assert (copy / "twice").samefile(copy / "sub/file")
    assert not (copy / "twice").samefile(tree / "twice")
    assert sorted(os.listdir(tmp_path)) == ["copy", "tree"]


def test_what_is_cloned_to_a_directory_is_in_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert clone(tree, tmp_path / "there").path == tmp_path / "there/tree"
    assert clone(tree / "empty", tmp_path / "there").path == tmp_path / "there/empty"
    assert looks(tmp_path / "there/tree") == looks(tree)


def test_a_symbolic_link_is_cloned_as_one(tree: Path, tmp_path: Path) -> None:
    clone(tree / "link", tmp_path / "copy")
    assert (tmp_path / "copy").readlink() == Path("nowhere")


def test_a_file_that_is_there_is_replaced(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("before")
    with (tmp_path / "copy").open() as before:
        clone(tree / "sub/file", tmp_path / "copy")
        assert before.read() == "before"
    assert (tmp_path / "copy").read_bytes() == b"data" * 5000


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("tree", "tree", "tree: a directory cannot be cloned into itself"),
        ("tree", "tree/sub/deeper", "tree: a directory cannot be cloned into itself"),
        ("tree/empty", "tree", "tree/empty are the same file"),
        ("tree/sub", "parent", "parent/sub: it is there already"),
        ("tree/sub", "tree/empty", "tree/empty: it is there already"),
        ("tree/nobody", "copy", "tree/nobody: No such file or directory; nothing was cloned"),
        ("tree", "nobody/copy", "nobody: No such file or directory; nothing was cloned"),
    ],
)
def test_refusals(
    tree: Path,
    tmp_path: Path,
    source: str,
    target: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "parent/sub").mkdir(parents=True)
    before = looks(tmp_path)
    assert main(["clone", str(tmp_path / source), str(tmp_path / target)]) == EXIT_FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"/{message}")
    assert looks(tmp_path) == before


def test_only_in_a_mount_of_pramfs(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountinfo, "filesystem_type", lambda device: "tmpfs")
    with pytest.raises(PramError, match=f"^{tree}: not in a mount of pramfs$"):
        clone(tree, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["tree"]


def test_nobody_sees_a_clone_before_it_is_complete(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.copy_file_range
    seen = []

    def watched(source: int, target: int, count: int) -> int:
        seen.append(sorted(name for name in os.listdir(tmp_path) if name != "tree"))
        return real(source, target, count)

    monkeypatch.setattr(os, "copy_file_range", watched)
    clone(tree, tmp_path / "copy")
    assert [name.startswith(".pramfs-clone-") for names in seen for name in names] == [True]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_nothing_stays_of_a_clone_that_fails(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = looks(tree)
    real = os.utime

    def fail_late(path: Path, **settings: Any) -> None:
        if path.name.startswith(".pramfs-clone-"):  # the directory, after all that is in it
            raise error
        real(path, **settings)

    monkeypatch.setattr(os, "utime", fail_late)
    with pytest.raises((PramError, KeyboardInterrupt)):
        clone(tree, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["tree"]
    assert looks(tree) == before


def test_a_file_that_becomes_shorter_is_no_clone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda source, target, count: 0)
    with pytest.raises(PramError, match="file: it became shorter meanwhile"):
        clone(tree / "sub/file", tmp_path / "copy")
    assert os.listdir(tmp_path) == ["tree"]


def test_a_file_that_is_replaced_meanwhile_is_no_clone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def replace(path: Path, *settings: Any, **more: Any) -> int:
        if path == tree / "empty":
            path.rename(tmp_path / "moved")
            path.write_text("another")
        return real(path, *settings, **more)

    monkeypatch.setattr(os, "open", replace)
    with pytest.raises(PramError, match="empty: it was replaced meanwhile"):
        clone(tree, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_what_may_not_be_set_is_told_and_takes_set_id_bits_away(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*words: Any, **settings: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    (tree / "empty").chmod(0o6755)
    monkeypatch.setattr(os, "chown", refuse)
    assert main(["clone", str(tree / "empty"), str(tmp_path / "copy")]) == 0
    told = "pramfs: not set, 1 times: owner: Operation not permitted\n"
    assert capsys.readouterr().err == told
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o755


def test_flags_that_forbid_changes_are_set_last_and_taken_away_from_what_fails(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int]] = []
    monkeypatch.setattr(module, "_flags_of", lambda fd: 0x10 if is_fixed(fd) else 0)

    def is_fixed(fd: int) -> bool:
        return Path(f"/proc/self/fd/{fd}").readlink() in (tree, tree / "sub")

    def set_flags(path: Path, flags: int, known: int) -> None:
        assert (path / "file").exists() or (path / "sub/file").exists()
        given.append((path.name, flags))

    monkeypatch.setattr("pramfs.system.inode_flags.set_flags", set_flags)
    clone(tree, tmp_path / "copy")
    assert given == [("sub", 0x10), ("copy", 0x10)]
    given.clear()
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PramError):
        clone(tree, tmp_path / "other")
    assert given[0] == ("sub", 0x10)
    assert ("sub", 0) in given[1:]
    assert sorted(os.listdir(tmp_path)) == ["copy", "tree"]


def fail(*words: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
