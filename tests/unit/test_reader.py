"""`pramfs ls`, `cat` and `extract`: a tree without a mount, whole or in part."""

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import CHECK_DAMAGED, EXIT_FAILED
from pramfs.offline.extract import extract
from pramfs.offline.listing import list_line
from pramfs.offline.paths import Entry
from pramfs.offline.reader import TreeReader
from pramfs.offline.scan import file_name
from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.storage.image import open_image
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.file_flags import IMMUTABLE, NOATIME, NODUMP
from pramfs.tree.inodes import Directory, File
from pramfs.tree.tree import Owner, Tree
from tests.golden.specimen import NS
from tests.support.image_files import BIG, flip, frames_of, links_of, make_image

NAMES = {"big", "empty", "fifo", "link", "small", "sparse", "sub", "twice"}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "pram")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_ls_lists_the_root(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", image) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("-rw-r--r--    1")
    assert {line.split()[7] for line in lines} == NAMES
    assert lines[3].endswith("link -> sub/again")


def test_ls_lists_files_and_then_directories_by_their_names(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ls", image, "/sub", "small", ".") == 0
    lines = [line.split()[-1:] for line in capsys.readouterr().out.splitlines()]
    assert lines[:6] == [["small"], [], ["/sub:"], ["again"], ["tagged"], []]
    assert lines[6:8] == [[".:"], ["big"]]
    assert run("ls", image, "sub") == 0
    lines = [line.split()[-1:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["again"], ["tagged"]]


def test_ls_names_what_is_not_there(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", image, "sub/nobody") == EXIT_FAILED
    assert capsys.readouterr().err == "pramfs: sub/nobody: no such file or directory in the tree\n"


def test_another_tree_is_named_with_those_that_are_there(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ls", "--name", "other", image) == EXIT_FAILED
    assert "no tree 'other'; there are: pramfs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mtime", "shown"),
    [
        (2 * NS - 1, "1970-01-01 00:00:01"),
        (-1, "1969-12-31 23:59:59"),
        (((1 << 63) - 1) * NS, str((1 << 63) - 1)),
        (-(1 << 63) * NS, str(-(1 << 63))),
    ],
)
def test_any_time_can_be_listed(mtime: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    inode = File(2, 0, stat.S_IFREG | 0o644, 0, 0, mtime)
    assert list_line(Entry(b"file", inode), b"file").endswith(f" {shown} file")


def test_names_are_printed_without_control_characters() -> None:
    assert file_name(b"a\x1b[31m\n\xff") == "a\\x1b[31m\\n\\xff"


def test_info_shows_no_control_characters_of_who_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pramfs.storage.superblock.__version__", "1\x1b[31m\n")
    assert run("info", make_image(tmp_path / "odd")) == 0
    assert r"by pramfs 1\x1b[31m\n, at unmount" in capsys.readouterr().out


def test_cat_writes_files_with_their_holes(
    image: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("cat", image, "small", "sparse", "big") == 0
    sparse = bytes(3 * PAGE_SIZE) + b"\x33" * PAGE_SIZE + bytes(6 * PAGE_SIZE + 5)
    assert capfdbinary.readouterr().out == b"hello\n" + sparse + BIG


def test_cat_writes_nothing_of_a_damaged_file(
    image: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    flip(image, frames_of(image, "big")[150])
    assert run("cat", image, "small", "big") == EXIT_FAILED
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"1 damaged: big; see --recover" in err
    assert run("cat", "--recover", image, "small", "big") == CHECK_DAMAGED
    out, err = capfdbinary.readouterr()
    assert out == b"hello\n"
    assert b"left out: big: pfn:" in err


def test_extract_makes_everything_with_its_attributes(image: Path, out: Path) -> None:
    assert run("extract", "-C", out, image) == 0
    assert {path.name for path in out.iterdir()} == NAMES
    assert (out / "big").read_bytes() == BIG
    assert stat.filemode(out.stat().st_mode) == "drwxr-x---"
    assert stat.filemode((out / "sub").stat().st_mode) == "dr-xr-xr-x"
    assert stat.filemode((out / "fifo").stat().st_mode) == "prw--w----"
    assert (out / "link").readlink() == Path("sub/again")
    assert (out / "twice").samefile(out / "sub/again")
    assert (out / "twice").stat().st_nlink == 2
    tagged = out / "sub/tagged"
    status = tagged.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (123 * NS + 456, -7 * NS + 89)
    assert os.getxattr(tagged, "user.note") == b"kept"


def test_extract_keeps_holes(image: Path, out: Path) -> None:
    assert run("extract", "-C", out, image, "sparse") == 0
    status = (out / "sparse").stat()
    assert status.st_size == 10 * PAGE_SIZE + 5
    assert status.st_blocks * 512 < status.st_size


def test_extract_takes_what_is_asked_for_under_its_path(image: Path, out: Path) -> None:
    assert run("extract", "-C", out, image, "sub/tagged", "empty") == 0
    assert {str(path.relative_to(out)) for path in out.rglob("*")} == {"sub", "sub/tagged", "empty"}


def test_extract_touches_no_directory_that_is_not_empty(image: Path, out: Path) -> None:
    out.mkdir()
    (out / "mine").touch()
    assert run("extract", "-C", out, image) == EXIT_FAILED
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_extract_refuses_a_damaged_tree_and_recovers_the_rest(
    image: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(image, frames_of(image, "twice")[0])
    assert run("extract", "-C", out, image) == EXIT_FAILED
    assert not out.exists()
    assert run("extract", "--recover", "-C", out, image) == CHECK_DAMAGED
    assert {path.name for path in out.iterdir()} == NAMES - {"twice"}
    err = capsys.readouterr().err
    assert "left out: twice: " in err
    assert "left out: sub/again: " in err


@contextlib.contextmanager
def saved_tree(image: Path) -> Iterator[tuple[Tree, Owner]]:
    """A new tree with a root, and the owner of what is made in it, which is saved to a new image."""
    with open_image(image, writable=True, create=True) as opened:
        pram = Pram.create(opened, 512)
        tree = Tree(pram.arena, inodes_max=10_000, generation=1)
        owner = Owner(os.getuid(), os.getgid())
        tree.make_root(0o755, owner)
        yield tree, owner
        Saver(pram, "pramfs", tree).save(final=True, progress=lambda pages: None)
        pram.close()


def test_extract_says_what_is_too_deep_for_a_path(tmp_path: Path, out: Path) -> None:
    image = tmp_path / "deep"
    with saved_tree(image) as (tree, owner):
        directory = tree.root
        for _ in range(100):
            made = tree.create(directory, b"d" * 250, stat.S_IFDIR | 0o755, owner)
            assert isinstance(made, Directory)
            directory = made
    with open_image(image, writable=False) as opened:
        extracted = extract(TreeReader(opened, "pramfs"), [], out)
    assert 10 < extracted.names < 18
    assert extracted.left_out[-1] == "/".join(["d" * 250] * 17) + ": File name too long"
    assert extracted.names + len(extracted.left_out) == 1 + 17


def test_a_damaged_link_costs_the_files_behind_it(image: Path, out: Path) -> None:
    flip(image, links_of(image, "pramfs-data")[1])
    assert run("extract", "--recover", "-C", out, image) == CHECK_DAMAGED
    whole = {path.name for path in out.iterdir()}
    assert {"empty", "fifo", "link", "sub"} <= whole
    assert "big" not in whole


def test_a_damaged_node_of_another_name_costs_nothing(image: Path, out: Path) -> None:
    flip(image, links_of(image, "note")[0])
    assert run("extract", "-C", out, image) == 0


def test_a_truncated_image_without_its_nodes_is_refused(image: Path, out: Path) -> None:
    os.truncate(image, max(frames_of(image, "big")) * PAGE_SIZE)
    assert run("extract", "--recover", "-C", out, image) == EXIT_FAILED
    assert not out.exists()


def test_damaged_metadata_is_refused(image: Path, out: Path) -> None:
    flip(image, links_of(image, "pramfs-meta")[0])
    assert run("extract", "--recover", "-C", out, image) == EXIT_FAILED
    assert not out.exists()


def test_reading_changes_nothing(image: Path, out: Path) -> None:
    before = image.read_bytes()
    run("extract", "-C", out, image)
    run("ls", image)
    assert image.read_bytes() == before


# --- flags of chattr(1) and birth times -----------------------------------------------------------

BORN = 1_700_000_000 * NS + 5


@pytest.fixture
def flagged(tmp_path: Path) -> Path:
    """An image of two files, `plain`, and `kept` with flags, which is older and has two names."""
    path = tmp_path / "flagged"
    with saved_tree(path) as (tree, owner):
        root = tree.root
        kept = tree.create(root, b"kept", stat.S_IFREG | 0o444, owner)
        kept.born = BORN
        plain = tree.create(root, b"plain", stat.S_IFREG | 0o644, owner)
        plain.born = 0
        directory = tree.create(root, b"dir", stat.S_IFDIR | 0o755, owner)
        assert isinstance(directory, Directory)
        tree.link(kept, directory, b"again")
        tree.set_flags(directory, NODUMP, 0)
        tree.set_flags(kept, NODUMP | NOATIME | IMMUTABLE, 0)
    return path


def test_ls_shows_flags_and_birth_times_when_asked(
    flagged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert run("ls", "-l", flagged) == 0
    lines = {line.split()[-1]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert {name: words[1] for name, words in lines.items()} == {
        "dir": "--d-",
        "kept": "i-dA",
        "plain": "----",
    }
    assert lines["kept"][8:10] == ["2023-11-14", "22:13:20"]
    assert lines["plain"][8:10] == ["-", "plain"]
    assert run("ls", flagged) == 0
    assert "i-dA" not in capsys.readouterr().out


def test_ls_for_programs_has_flags_and_birth_times(
    flagged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ls", "--json", flagged) == 0
    files = {file["path"]: file for file in json.loads(capsys.readouterr().out)["files"]}
    assert (files["kept"]["flags"], files["kept"]["born_ns"]) == ("idA", BORN)
    assert (files["plain"]["flags"], files["plain"]["born_ns"]) == ("", 0)


def test_lost_birth_times_are_told_and_cost_nothing_else(
    flagged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(flagged, links_of(flagged, "pramfs-more")[0])
    assert run("ls", "-l", flagged) == CHECK_DAMAGED
    out, err = capsys.readouterr()
    assert "i-dA" in out
    assert "2023-11-14" not in out
    assert err.startswith("pramfs: damaged: birth times: node 'pramfs-more'")
    assert run("ls", flagged) == 0


def test_extract_sets_flags_last(flagged: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}

    def add_flags(path: bytes, flags: int) -> None:
        name = os.path.relpath(os.fsdecode(path), out)
        assert (out / "dir/again").exists()
        assert stat.S_IMODE((out / "kept").stat().st_mode) == 0o444
        given[name] = given.get(name, 0) | flags

    monkeypatch.setattr("pramfs.offline.extract.add_flags", add_flags)
    assert run("extract", "-C", out, flagged) == 0
    kept = given.keys() & {"kept", "dir/again"}  # whichever name was made first
    assert {given[name] for name in kept} == {NODUMP | NOATIME | IMMUTABLE}
    assert given == {name: given[name] for name in kept} | {"dir": NODUMP}


def test_flags_that_a_file_system_refuses_are_counted_in_a_line(
    flagged: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: bytes, flags: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("pramfs.offline.extract.add_flags", refuse)
    assert run("extract", "-C", out, flagged) == 0
    told = "pramfs: flags of chattr(1) not set, of 2 files: Operation not supported\n"
    assert capsys.readouterr().err == told
    assert (out / "kept").samefile(out / "dir/again")
