"""Real tools do their work on a mount, and what they made works again after a remount."""

import base64
import hashlib
import mmap
import os
import sqlite3
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, PAGE, Outcome, Volume, run

GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def copy_with_cp(source: Path, target: Path) -> None:
    run("cp", "-a", source, target).succeeded()


def copy_with_rsync(source: Path, target: Path) -> None:
    run("rsync", "-aHAX", "--numeric-ids", f"{source}/", f"{target}/").succeeded()


def copy_with_tar(source: Path, target: Path) -> None:
    """Through an archive; tar leaves sockets out, so these are made by hand."""
    every_attribute = ("--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner")
    target.mkdir()
    archive = run("tar", *every_attribute, "-C", source, "-c", ".").succeeded().out
    run("tar", *every_attribute, "-C", target, "-xp", stdin=archive).succeeded()


def test_an_overlayfs_keeps_its_upper_layer_on_a_pramfs(volume: Volume, tmp_path: Path) -> None:
    """Whiteouts, opaque directories and copies are what it makes there; all of it survives a remount."""
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    for directory in (lower / "kept", lower / "gone", merged):
        directory.mkdir(parents=True)
    for path in ("file", "moved", "deleted", "kept/inner", "gone/inner"):
        (lower / path).write_text(f"lower {path}\n")

    def mount_overlay(root: Path) -> None:
        layers = f"lowerdir={lower},upperdir={root / 'upper'},workdir={root / 'work'}"
        options = f"{layers},redirect_dir=on,index=on"
        run("mount", "-t", "overlay", "-o", options, "overlay", merged).succeeded()

    root = volume.mount()
    (root / "upper").mkdir()
    (root / "work").mkdir()
    mount_overlay(root)
    try:
        with (merged / "file").open("a") as file:
            file.write("upper\n")
        (merged / "deleted").unlink()
        (merged / "moved").rename(merged / "new place")
        (merged / "kept").rename(merged / "renamed")
        run("rm", "-r", merged / "gone").succeeded()
        (merged / "gone").mkdir()
        before = sample_trees.portable(sample_trees.snapshot(merged))
        assert stat.S_ISCHR((root / "upper" / "deleted").lstat().st_mode)
    finally:
        run("umount", merged).succeeded()
    mount_overlay(volume.remount())
    try:
        sample_trees.assert_same(sample_trees.portable(sample_trees.snapshot(merged)), before)
        assert (merged / "file").read_text() == "lower file\nupper\n"
        assert (merged / "renamed" / "inner").read_text() == "lower kept/inner\n"
        assert not list((merged / "gone").iterdir())
    finally:
        run("umount", merged).succeeded()


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A tree of everything on a file system of the kernel."""
    source = tmp_path / "everything"
    source.mkdir()
    sample_trees.plant_everything(source)
    return source


@pytest.mark.parametrize("copy", [copy_with_cp, copy_with_rsync, copy_with_tar])
def test_a_copied_tree_is_the_same_tree(
    volume: Volume, everything: Path, tmp_path: Path, copy: Callable[[Path, Path], None]
) -> None:
    """Into the mount, and after a remount out of it again."""
    if copy is copy_with_tar:
        (everything / "special" / "socket").unlink()
    original = sample_trees.portable(sample_trees.snapshot(everything))

    root = volume.mount()
    copy(everything, root / "copy")
    sample_trees.assert_same_below(
        sample_trees.portable(sample_trees.snapshot(root / "copy")), original
    )
    volume.remount()
    copy(root / "copy", tmp_path / "out")
    sample_trees.assert_same_below(
        sample_trees.portable(sample_trees.snapshot(tmp_path / "out")), original
    )


def test_rsync_finds_nothing_to_do_after_a_remount(volume: Volume, everything: Path) -> None:
    root = volume.mount()
    copy_with_rsync(everything, root / "copy")
    volume.remount()
    itemized = run("rsync", "-aHAXn", "--itemize-changes", f"{everything}/", root / "copy/")
    assert itemized.succeeded().out == b""


def test_git(volume: Volume, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    _git(origin, "init", "--quiet")
    for seed in range(3):
        sample_trees.plant_files(origin, 150, seed=seed)
        _git(origin, "add", ".")
        _git(origin, "commit", "--quiet", "-m", f"commit {seed}")

    root = volume.mount()
    clone = root / "clone"
    _git(root, "clone", "--quiet", "--no-local", str(origin), "clone")
    _git(clone, "fsck", "--full", "--strict")
    (clone / "new").write_text("made on the mount")
    _git(clone, "add", "new")
    _git(clone, "commit", "--quiet", "-m", "on the mount")
    _git(clone, "gc", "--quiet")
    head = _git(clone, "rev-parse", "HEAD").out

    volume.remount()
    # diff-files compares with the index: inode numbers, times and owners are those of before.
    assert _git(clone, "diff-files").out == b""
    _git(clone, "fsck", "--full", "--strict")
    assert _git(clone, "status", "--porcelain").out == b""
    assert _git(clone, "rev-parse", "HEAD").out == head


def test_sqlite_in_wal_mode(volume: Volume) -> None:
    root = volume.mount()
    database = root / "db"
    with sqlite3.connect(database) as writer:
        assert writer.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        writer.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, noise BLOB)")
    reader = sqlite3.connect(database)
    for start in range(0, 500, 50):
        rows = [
            (number, sample_trees.noise(900, seed=number)) for number in range(start, start + 50)
        ]
        with writer:
            writer.executemany("INSERT INTO t VALUES (?, ?)", rows)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (start + 50,)
    writer.close()
    reader.close()
    _leave_a_wal(database)
    assert (root / "db-wal").stat().st_size > 0

    volume.remount()
    answer = run("sqlite3", database, "PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;")
    assert answer.succeeded().text == f"ok\n501|{sum(range(501))}\n"


def test_pip_install_into_a_target(volume: Volume, tmp_path: Path) -> None:
    wheel = _build_wheel(tmp_path, "salutation", "def greet() -> str:\n    return 'hello'\n")
    root = volume.mount()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
    run(*pip, "install", "--no-index", "--no-deps", "--target", root / "site", wheel).succeeded()

    def greet() -> str:
        program = "import salutation; print(salutation.__file__, salutation.greet())"
        return run(sys.executable, "-c", program, env={"PYTHONPATH": f"{root / 'site'}"}).text

    assert greet() == f"{root / 'site' / 'salutation.py'} hello\n"
    volume.remount()
    assert greet() == f"{root / 'site' / 'salutation.py'} hello\n"


def test_a_shared_writable_mapping(volume: Volume) -> None:
    root = volume.mount()
    size = 2 * MIB
    (root / "mapped").write_bytes(bytes(size))
    with (root / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), size) as mapping:
        mapping[:] = sample_trees.noise(size)
        assert (root / "mapped").read_bytes() == sample_trees.noise(size)
        os.pwrite(file.fileno(), b"written", 5 * PAGE - 3)
        assert mapping[5 * PAGE - 3 :].startswith(b"written")
        mapping.flush()
    expected = bytearray(sample_trees.noise(size))
    expected[5 * PAGE - 3 : 5 * PAGE + 4] = b"written"

    volume.remount()
    with (root / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), size) as mapping:
        assert mapping[:] == expected
        mapping[0] = expected[0] ^ 0xFF


@pytest.mark.parametrize("pattern", ["write", "randwrite"])
def test_fio_verifies(volume: Volume, pattern: str) -> None:
    root = volume.mount()
    job = (
        "fio", "--name=job", f"--directory={root}", "--size=8M", f"--rw={pattern}",
        "--bsrange=512-64k", "--verify=crc32c", "--verify_fatal=1", "--fallocate=none",
        "--ioengine=psync", "--randseed=4", "--verify_state_save=0", "--allrandrepeat=1",
    )  # fmt: skip
    run(*job, "--do_verify=1", cwd=volume.home).succeeded()
    volume.remount()
    run(*job, "--verify_only", cwd=volume.home).succeeded()


def test_a_c_program_is_compiled_and_run(volume: Volume) -> None:
    root = volume.mount()
    (root / "hello.h").write_text('#define WORDS "hello from pram"\n')
    source = '#include <stdio.h>\n#include "hello.h"\nint main(void) { puts(WORDS); return 0; }\n'
    (root / "hello.c").write_text(source)
    run("gcc", "-Wall", "-Werror", "-c", "hello.c", cwd=root).succeeded()
    run("gcc", "-o", "hello", "hello.o", cwd=root).succeeded()
    assert run(root / "hello").succeeded().text == "hello from pram\n"

    volume.remount()
    assert run(root / "hello").succeeded().text == "hello from pram\n"
    run("gcc", "-o", "again", "hello.o", cwd=root).succeeded()
    assert (root / "again").read_bytes() == (root / "hello").read_bytes()


def test_listings_are_the_same_after_a_remount(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_everything(root)

    def list_everything() -> list[str]:
        listings = (
            ("ls", "-lRai", "--full-time"),
            ("find", ".", "-ls"),
            ("du", "-a"),
            ("du", "-ab"),
        )
        return [
            line
            for argv in listings
            for line in sorted(run(*argv, cwd=root).succeeded().text.splitlines())
        ]

    before = list_everything()
    volume.remount()
    assert list_everything() == before


def test_df_tells_the_size(volume: Volume) -> None:
    root = volume.mount("size=32M")
    row = run("df", "--block-size=1M", "--output=source,size,target", root).succeeded().text
    source, size, target = row.splitlines()[1].split()
    assert (source, target) == (str(volume.image), str(root))
    assert int(size) == pytest.approx(32, abs=1)


def _git(directory: Path, *arguments: str) -> Outcome:
    return run("git", *arguments, cwd=directory, env=GIT_ENVIRONMENT).succeeded()


def _leave_a_wal(database: Path) -> None:
    """Commit a row and die before the log is written back."""
    program = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "db.execute('INSERT INTO t VALUES (500, NULL)'); db.commit(); os._exit(0)"
    )
    run(sys.executable, "-c", program, database).succeeded()


def _build_wheel(directory: Path, name: str, source: str) -> Path:
    info = f"{name}-1.0.dist-info"
    members = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},{_record_digest(text)},{len(text)}" for path, text in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
    return wheel


def _record_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
