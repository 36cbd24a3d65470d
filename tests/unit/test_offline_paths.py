"""Paths that the reading commands take: symbolic links on them, and how far they lead."""

import ctypes
import errno
import itertools
import os
import stat
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import EXIT_FAILED, PramError
from pramfs.offline.reader import TreeReader
from pramfs.storage.image import open_image
from tests.golden.specimen import Specimen, directory, regular
from tests.support.image_files import frames_of, make_image


def link(target: bytes) -> Specimen:
    return Specimen(stat.S_IFLNK | 0o777, target=target)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = directory(
        {
            b"file": regular(b"data\n"),
            b"dir": directory({b"inner": regular(b"inner\n"), b"up": link(b"../file")}),
            b"todir": link(b"./dir/"),
            b"tofile": link(b"todir/up"),
            b"loop": link(b"loop"),
            b"gone": link(b"nobody"),
            b"abs": link(b"/etc/passwd"),
            b"out": link(b"dir/../../x"),
        }
    )
    return make_image(tmp_path / "pram", root=root)


class OpenHow(ctypes.Structure):
    """What openat2(2) is asked."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


WORDS = {
    errno.ENOENT: "no such file or directory in the tree",
    errno.ENOTDIR: "not a directory",
    errno.ELOOP: "too many levels of symbolic links",
    errno.EXDEV: "leads out of the tree",
}


def by_the_kernel(top: int, path: str, follow: bool) -> int | str:
    """What a path that stays beneath a directory names: its inode number, or what is wrong."""
    openat2, resolve_beneath = 437, 8
    how = OpenHow(os.O_PATH | (0 if follow else os.O_NOFOLLOW), 0, resolve_beneath)
    libc = ctypes.CDLL(None, use_errno=True)
    name = ctypes.c_char_p(path.encode())
    fd = libc.syscall(openat2, top, name, ctypes.byref(how), ctypes.sizeof(how))
    # A rename anywhere in the system meanwhile makes ".." doubtful to the kernel.
    while fd < 0 and ctypes.get_errno() == errno.EAGAIN:
        fd = libc.syscall(openat2, top, name, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        return WORDS[ctypes.get_errno()]
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def by_us(reader: TreeReader, plain: Path, path: str, follow: bool) -> int | str:
    """The same of the tree that was extracted to that directory."""
    try:
        entry = reader.find(path, follow=follow)
    except PramError as exc:
        return str(exc).removeprefix(f"{path}: ").partition(",")[0]
    return (plain / os.fsdecode(entry.path)).lstat().st_ino


def test_every_path_names_what_it_names_where_it_is_mounted(image: Path, tmp_path: Path) -> None:
    """All paths of three parts."""
    plain = tmp_path / "plain"
    assert main(["extract", "-C", str(plain), str(image)]) == 0
    parts = [".", "..", *os.listdir(plain), "inner", "up"]
    top = os.open(plain, os.O_PATH)
    with open_image(image, writable=False) as opened:
        reader = TreeReader(opened, "pramfs")
        for names in itertools.product(parts, [*parts, ""], [*parts, ""]):
            for path, follow in itertools.product(["/".join(names)], [True, False]):
                ours = by_us(reader, plain, path, follow)
                assert ours == by_the_kernel(top, path, follow), f"{path}, {follow=}"
    os.close(top)


def test_cat_follows_links(image: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["cat", str(image), "tofile", "/todir/inner"]) == 0
    assert capfdbinary.readouterr().out == b"data\ninner\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("abs", "abs: leads out of the tree, to /etc/passwd"),
        ("out", "out: leads out of the tree"),
        ("../file", "../file: leads out of the tree"),
        ("loop", "loop: too many levels of symbolic links"),
        ("gone", "gone: no such file or directory in the tree"),
        ("file/", "file/: not a directory"),
    ],
)
def test_what_leads_nowhere_is_one_clear_line(
    image: Path, path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cat", str(image), path]) == EXIT_FAILED
    assert main(["map", "--file", path, str(image)]) == EXIT_FAILED
    assert capsys.readouterr().err == f"pramfs: {words}\n" * 2


def test_ls_shows_a_link_and_with_a_slash_what_it_leads_to(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(image), "todir"]) == 0
    assert capsys.readouterr().out.endswith(" todir -> ./dir/\n")
    assert main(["ls", str(image), "todir/"]) == 0
    assert [line.split()[7] for line in capsys.readouterr().out.splitlines()] == ["inner", "up"]


def test_map_shows_the_file_that_a_link_leads_to(image: Path) -> None:
    svgs = [image.with_suffix(f".{name}") for name in ("file", "tofile")]
    for svg in svgs:
        assert main(["map", "--file", svg.suffix[1:], "--svg", str(svg), str(image)]) == 0
    assert frames_of(image, "file")
    assert svgs[0].read_text() == svgs[1].read_text()


def test_extract_keeps_a_link_that_is_named(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["extract", "-C", str(out), str(image), "todir"]) == 0
    assert [path.name for path in out.rglob("*")] == ["todir"]
    assert (out / "todir").readlink() == Path("dir")


def test_a_path_through_a_link_names_the_same_where_it_was_extracted(
    image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["extract", "-C", str(out), str(image), "todir/inner"]) == 0
    assert (out / "todir/inner").read_bytes() == b"inner\n"
    assert {path.name for path in out.rglob("*")} == {"todir", "dir", "inner"}
    assert not (out / "dir").is_symlink()
