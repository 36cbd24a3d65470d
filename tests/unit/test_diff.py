"""`pramfs diff`: what differs between snapshots, or a snapshot and the tree."""

import os
import random
import stat
from array import array
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from pramfs.cli.commands.diff import change_line
from pramfs.cli.main import main
from pramfs.errors import DIFF_EQUAL, DIFF_FOUND, DIFF_TROUBLE, DamagedPage, SavedMeanwhile
from pramfs.offline import diff as diff_module
from pramfs.offline.diff import TreeDiff, diff_trees
from pramfs.offline.page_diff import changed_pages
from pramfs.pram.links import Entries
from pramfs.pram.pram import Pram
from pramfs.saves.snapshots import copy_tree
from pramfs.storage.image import open_image
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory
from tests.support.image_files import flip
from tests.support.json_schemas import conforming
from tests.support.snapshots import take
from tests.support.tree_volume import NAME, USER, Volume

PAGE = b"\x77" * PAGE_SIZE
EXCHANGE = 2
PUNCH_HOLE = 3


class Kept(Volume):
    """A volume in an image in a file, which commands can open."""

    def __init__(self, path: Path, frames: int = 4096) -> None:
        self.path = path
        super().__init__(pram=Pram.create(path, frames))

    def diff(self, *snapshots: str) -> list[str]:
        """The lines of `pramfs diff` after a save, without the totals."""
        self.save(final=False)
        names = [f"{NAME}@{snapshot}" if snapshot else NAME for snapshot in snapshots]
        return [change_line(change) for change in self.compare(*names).changes()]

    def compare(self, old: str, new: str) -> TreeDiff:
        with open_image(self.path, writable=False) as image:
            return diff_trees(image, old, new)


@pytest.fixture
def volume(tmp_path: Path) -> Kept:
    volume = Kept(tmp_path / "image")
    volume.mkdir("dir")
    volume.mkdir("dir/below")
    volume.create("dir/below/deep", b"deep\n")
    volume.create("dir/file", b"file\n")
    volume.create("big", os.urandom(1000 * PAGE_SIZE))
    volume.create("other", PAGE * 3)
    volume.symlink("link", b"big")
    volume.mknod("pipe", stat.S_IFIFO | 0o600)
    volume.create("one", b"two names")
    volume.link("one", "two")
    take(volume, "before")
    return volume


def since(volume: Kept) -> list[str]:
    return volume.diff("before", "")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["diff", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


# --- what is told -------------------------------------------------------------------------------


def test_nothing_differs(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    take(volume, "after")
    assert run(capsys, volume.path, "before", "after") == (DIFF_EQUAL, "", "")
    assert run(capsys, volume.path, "before") == (DIFF_EQUAL, "", "")


def test_each_kind_of_change_has_a_letter(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    volume.create("new", PAGE)
    volume.unlink("pipe")
    volume.rename("other", "dir/moved")
    volume.tree.write(volume.file("big"), 500 * PAGE_SIZE, b"changed")
    volume.tree.setattr(volume.inode("dir/file"), Changes(mode=0o600))
    volume.save(final=False)
    code, out, err = run(capsys, volume.path, "before")
    assert (code, err) == (DIFF_FOUND, "")
    assert out.splitlines() == [
        "M big (1 page)",
        "m dir/file (mode)",
        "R other -> dir/moved",
        "A new",
        "D pipe",
        "1 added, 1 deleted, 1 renamed, 1 changed, 1 with other attributes, 1 page",
    ]
    code, out, _ = run(capsys, volume.path, f"{NAME}@before", f"{NAME}@before")
    assert (code, out) == (DIFF_EQUAL, "")


def test_backwards_what_was_added_is_deleted(
    volume: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    volume.create("new")
    take(volume, "after")
    assert run(capsys, volume.path, "after", "before")[1] == "D new\n1 deleted\n"


def test_names_are_told_without_control_characters(volume: Kept) -> None:
    volume.tree.create(volume.tree.root, b"a\x1b[31m\n\xff", stat.S_IFREG | 0o644, USER)
    assert since(volume) == [r"A a\x1b[31m\n\xff"]


def test_a_snapshot_of_another_tree(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    copy_tree(volume.pram, f"{NAME}@before", "other@x")
    volume.save(final=False)
    assert run(capsys, volume.path, "other@x", f"{NAME}@before")[0] == DIFF_EQUAL


# --- renames ------------------------------------------------------------------------------------


def test_what_is_in_a_renamed_directory_is_not_told_again(volume: Kept) -> None:
    volume.rename("dir", "folder")
    assert since(volume) == ["R dir/ -> folder/"]


def test_changes_within_a_renamed_directory_are_told_where_they_are_now(volume: Kept) -> None:
    volume.rename("dir", "folder")
    volume.tree.write(volume.file("folder/file"), 0, b"F")
    volume.create("folder/new")
    volume.unlink("folder/below/deep")
    assert since(volume) == [
        "R dir/ -> folder/",
        "D dir/below/deep",
        "M folder/file (1 page)",
        "A folder/new",
    ]


def test_a_directory_that_moves_into_a_new_one(volume: Kept) -> None:
    volume.mkdir("above")
    volume.rename("dir", "above/dir")
    assert since(volume) == ["A above/", "R dir/ -> above/dir/"]


def test_directories_that_change_places(volume: Kept) -> None:
    volume.mkdir("dir/below/under")
    take(volume, "nested")
    volume.rename("dir/below", "below")
    volume.rename("dir", "below/under/dir")
    assert volume.diff("nested", "") == [
        "R dir/below/ -> below/",
        "R dir/ -> below/under/dir/",
    ]


def test_files_that_are_exchanged(volume: Kept) -> None:
    volume.rename("big", "other", EXCHANGE)
    assert since(volume) == ["R other -> big", "R big -> other"]


def test_a_file_renamed_over_another_one(volume: Kept) -> None:
    volume.rename("other", "big")
    assert since(volume) == ["D big", "R other -> big"]


def test_a_renamed_file_with_other_contents_and_attributes(volume: Kept) -> None:
    volume.rename("other", "renamed")
    volume.tree.write(volume.file("renamed"), 3 * PAGE_SIZE, b"more")
    volume.tree.setattr(volume.inode("renamed"), Changes(uid=0))
    assert since(volume) == ["R other -> renamed (1 page, size 12288 -> 12292, owner)"]


def test_rotated_logs(volume: Kept) -> None:
    for name in ("log.1", "log"):
        volume.create(name, name.encode())
    take(volume, "logs")
    volume.rename("log.1", "log.2")
    volume.rename("log", "log.1")
    volume.create("log")
    assert volume.diff("logs", "") == ["A log", "R log -> log.1", "R log.1 -> log.2"]


# --- another file of the same name --------------------------------------------------------------


def test_a_file_that_was_replaced_is_compared_with_what_was_there(volume: Kept) -> None:
    volume.create("new", PAGE * 2 + b"x" * PAGE_SIZE)
    volume.rename("new", "other")
    assert since(volume) == ["M other (1 page)"]


def test_a_directory_that_was_made_anew(volume: Kept) -> None:
    """As a program does that removes its last dump and writes the next one."""
    volume.unlink("dir/below/deep")
    volume.rmdir("dir/below")
    volume.unlink("dir/file")
    volume.rmdir("dir")
    volume.mkdir("dir")
    volume.create("dir/file", b"file\n")
    volume.mkdir("dir/below")
    volume.create("dir/below/deep", b"DEEP\n")
    volume.create("dir/new")
    assert since(volume) == ["M dir/below/deep (1 page)", "A dir/new"]


def test_files_that_move_to_a_directory_made_anew_under_the_old_name(volume: Kept) -> None:
    volume.mkdir("fresh")
    volume.rename("dir/file", "fresh/file")
    volume.rename("dir/below", "fresh/below")
    volume.rmdir("dir")
    volume.rename("fresh", "dir")
    assert since(volume) == []


def test_a_file_in_place_of_a_directory(volume: Kept) -> None:
    volume.unlink("link")
    volume.mkdir("link")
    volume.create("link/in")
    assert since(volume) == ["D link", "A link/", "A link/in"]


def test_a_link_to_somewhere_else(volume: Kept) -> None:
    volume.unlink("link")
    volume.symlink("link", b"other")
    assert since(volume) == ["M link (target)"]


def test_another_device(volume: Kept) -> None:
    volume.mknod("dev", stat.S_IFCHR | 0o600, rdev=0x103)
    take(volume, "device")
    volume.unlink("dev")
    volume.mknod("dev", stat.S_IFCHR | 0o600, rdev=0x105)
    assert volume.diff("device", "") == ["M dev (device)"]


def test_everything_in_a_directory_that_is_gone_is_told(volume: Kept) -> None:
    volume.unlink("dir/below/deep")
    volume.rmdir("dir/below")
    volume.unlink("dir/file")
    volume.rmdir("dir")
    assert since(volume) == ["D dir/", "D dir/below/", "D dir/below/deep", "D dir/file"]


# --- links --------------------------------------------------------------------------------------


def test_each_name_of_a_changed_file_is_told_and_its_pages_count_once(volume: Kept) -> None:
    volume.tree.write(volume.file("one"), 0, b"T")
    assert since(volume) == ["M one (1 page)", "M two (1 page)"]
    assert volume.compare(f"{NAME}@before", NAME).totals.pages == 1


def test_a_name_more_and_a_name_less(volume: Kept) -> None:
    volume.link("one", "three")
    assert since(volume) == ["A three"]
    volume.unlink("two")
    assert since(volume) == ["R two -> three"]
    volume.unlink("three")
    assert since(volume) == ["D two"]


# --- attributes ---------------------------------------------------------------------------------


def test_attributes_are_told_by_name(volume: Kept) -> None:
    inode = volume.inode("dir")
    volume.tree.setattr(inode, Changes(mode=0o700, uid=5))
    volume.tree.setxattr(inode, b"user.note", b"1")
    assert since(volume) == ["m dir/ (mode, owner, xattrs)"]


def test_times_alone_are_no_difference(volume: Kept) -> None:
    volume.tree.setattr(volume.inode("big"), Changes(mtime=5, atime=6))
    assert since(volume) == []


def test_the_root_is_a_dot(volume: Kept) -> None:
    volume.tree.setattr(volume.tree.root, Changes(mode=0o700))
    assert since(volume) == ["m ./ (mode)"]


# --- pages --------------------------------------------------------------------------------------


def test_pages_are_counted(volume: Kept) -> None:
    for page in (0, 1, 511, 512, 999):
        volume.tree.write(volume.file("big"), page * PAGE_SIZE, b"changed")
    assert since(volume) == ["M big (5 pages)"]


def test_a_page_that_is_what_it_was_before_is_no_difference(volume: Kept) -> None:
    content = volume.read("big")
    volume.tree.write(volume.file("big"), 0, os.urandom(len(content)))
    volume.tree.write(volume.file("big"), 0, content)
    assert since(volume) == []


def test_files_that_become_shorter_and_longer(volume: Kept) -> None:
    volume.truncate("big", 10 * PAGE_SIZE)
    volume.truncate("other", 100 * PAGE_SIZE)
    assert since(volume) == [
        f"M big (990 pages, size {1000 * PAGE_SIZE} -> {10 * PAGE_SIZE})",
        f"M other (size {3 * PAGE_SIZE} -> {100 * PAGE_SIZE})",
    ]


def test_a_hole_is_as_good_as_zeros(volume: Kept) -> None:
    volume.create("zeros", bytes(5 * PAGE_SIZE) + PAGE)
    volume.create("holes", PAGE * 6)
    take(volume, "zeros")
    for name, count in (("zeros", 5), ("holes", 3)):
        volume.tree.fallocate(volume.file(name), PUNCH_HOLE, 0, count * PAGE_SIZE)
    assert volume.diff("zeros", "") == ["M holes (3 pages)"]


def test_pages_of_sparse_files_are_paired_by_their_index(tmp_path: Path) -> None:
    """Random pairs of sparse files, enough of them to meet every order of pages and holes."""
    path = tmp_path / "pages"
    path.write_bytes(b"".join(bytes([pfn % 10]) * PAGE_SIZE for pfn in range(20)))
    chance = random.Random(1)
    with open_image(path, writable=False) as image:
        for _ in range(200):
            size = chance.choice([5, 40, 2000])
            old = {at: chance.randrange(4) for at in range(size) if chance.random() < 0.6}
            new = {at: chance.choice([old.get(at, 0), 1]) for at in range(size) if at % 7}
            differ = sum(old.get(at, 0) != new.get(at, 0) for at in range(size))
            copies = {at: value + chance.choice([0, 10]) for at, value in new.items()}
            assert changed_pages(image, _entries(old), _entries(copies)) == differ


def _entries(pfns: dict[int, int]) -> Entries:
    """Entries of pages in frames that are filled with the last digit of their number."""
    entries = Entries()
    entries.indices = array("Q", pfns)
    entries.pfns = array("I", pfns.values())
    entries.csums = array("I", [crc32c(bytes([n % 10]) * PAGE_SIZE) for n in pfns.values()])
    return entries


# --- for programs -------------------------------------------------------------------------------


def test_json(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    volume.rename("dir", "folder")
    volume.tree.write(volume.file("other"), 3 * PAGE_SIZE, b"more")
    volume.tree.create(volume.tree.root, b"a\xff", stat.S_IFREG | 0o644, USER)
    volume.save(final=False)
    code, out, _ = run(capsys, "--json", volume.path, "before")
    told: dict[str, Any] = conforming("diff", out)
    assert code == DIFF_FOUND
    changes = told.pop("changes")
    assert told == {
        "old": "pramfs@before",
        "new": "pramfs",
        "generation": volume.pram.current.generation,
        "totals": {
            "added": 1,
            "removed": 0,
            "renamed": 1,
            "changed": 1,
            "attributes": 0,
            "pages": 1,
        },
    }
    assert [(change["change"], change["kind"], change["path"]) for change in changes] == [
        ("added", "file", "a\udcff"),
        ("renamed", "directory", "folder"),
        ("changed", "file", "other"),
    ]
    assert changes[1]["old_path"] == "dir"
    assert (changes[2]["old_size"], changes[2]["new_size"]) == (12288, 12292)
    assert (
        conforming("diff", run(capsys, "--json", volume.path, "before", "before")[1])["changes"]
        == []
    )


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("before", "before", "before"), ("--jsn", "before")])
def test_wrong_usage_has_the_code_of_trouble(
    volume: Kept, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, volume.path, *words)
    assert ended.value.code == DIFF_TROUBLE


def test_an_unknown_snapshot_is_named_with_those_that_are_there(
    volume: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, volume.path, "after")
    assert (code, out) == (DIFF_TROUBLE, "")
    assert err.endswith(": no snapshot 'after' of tree 'pramfs'; there are: before\n")


def test_what_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    assert run(capsys, tmp_path / "text", "before")[0] == DIFF_TROUBLE


def test_metadata_that_is_damaged(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    meta = volume.pram.node(f"{NAME}@before-meta")
    flip(volume.path, meta.owned[0].pfn)
    code, _, err = run(capsys, volume.path, "before")
    assert code == DIFF_TROUBLE
    assert err.startswith("pramfs: tree 'pramfs@before' is damaged: pfn:")


def test_links_that_are_damaged(volume: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    flip(volume.path, volume.pram.node(f"{NAME}@before-data").link_pfn)
    code, _, err = run(capsys, volume.path, "before")
    assert code == DIFF_TROUBLE
    assert len(err.splitlines()) == 1
    assert "node 'pramfs@before-data': pfn:" in err


def test_a_damaged_page_is_named_when_it_has_to_be_read(
    volume: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    volume.tree.write(volume.file("dir/file"), 0, b"other")
    volume.tree.write(volume.file("dir/file"), 0, b"file\n")
    volume.save(final=False)
    pages = volume.file("dir/file").pages
    assert pages is not None
    flip(volume.path, pages.get(0))
    code, _, err = run(capsys, volume.path, "before")
    assert code == DIFF_TROUBLE
    assert "dir/file: pfn:" in err
    assert len(err.splitlines()) == 1


def test_a_snapshot_whose_data_is_not_there(
    volume: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    volume.pram.free(f"{NAME}@before-data")
    volume.save(final=False)
    code, _, err = run(capsys, volume.path, "before")
    assert code == DIFF_TROUBLE
    assert len(err.splitlines()) == 1


def test_a_frame_with_two_checksums(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(PAGE * 20)
    old, new = _entries({0: 3}), _entries({0: 3})
    new.csums[0] ^= 1
    with open_image(path, writable=False) as image, pytest.raises(DamagedPage, match="pfn:3"):
        changed_pages(image, old, new)


def test_a_save_in_between_is_no_damage(volume: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.create("new")
    volume.save(final=False)
    looks = iter([True, True, False])
    look = diff_module._look

    def interrupted(*args: Any) -> Any:
        if next(looks):
            raise SavedMeanwhile(volume.path)
        return look(*args)

    monkeypatch.setattr(diff_module, "_look", interrupted)
    found = volume.compare(f"{NAME}@before", NAME)
    assert [change.path for change in found.changes()] == ["new"]


def test_a_deep_tree_takes_little_memory(tmp_path: Path) -> None:
    """All paths of it together would be 200 MB; each is told from its end, and made when it is printed."""
    volume = Kept(tmp_path / "image")
    take(volume, "before")
    directory = volume.tree.root
    for _ in range(2000):
        below = volume.tree.create(directory, b"n" * 200, stat.S_IFDIR | 0o755, USER)
        assert isinstance(below, Directory)
        directory = below
    volume.save(final=False)
    changes = list(volume.compare(f"{NAME}@before", NAME).changes())
    assert len(changes) == 2000
    assert max(len(change.path) for change in changes) <= 4096
    assert changes[-1].path.startswith("…/nnn")
