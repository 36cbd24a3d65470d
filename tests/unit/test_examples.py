"""The examples with an image do what they say; tests/mounted/test_checkpoint_example.py has the other."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import CHECKOUT
from tests.support.image_files import BIG, flip, frames_of, make_image


def example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, CHECKOUT / f"examples/{name}.py", *arguments]
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, cwd="/"
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_put_and_get_makes_an_image_and_replaces_what_is_there(tmp_path: Path) -> None:
    for text in ("hello", "hello again"):
        assert example("put_and_get", tmp_path / "image", "greeting", text).stdout == f"{text}\n"
    other = example("put_and_get", tmp_path / "image", "other", "more")
    assert (other.returncode, other.stdout) == (0, "more\n")


def test_put_and_get_refuses_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused = example("put_and_get", tmp_path / "file", "greeting", "hello")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"put_and_get: {tmp_path}/file: not a pram image")
    assert (tmp_path / "file").read_text() == "mine"


def test_walk_tree_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image")
    lines = example("walk_tree", image).stdout.splitlines()
    paths = [line.split()[2] for line in lines]
    assert paths == [
        "/", "/big", "/empty", "/fifo", "/link", "/small", "/sparse",
        "/sub", "/sub/again", "/sub/tagged", "/twice",
    ]  # fmt: skip
    by_path = dict(zip(paths, lines, strict=True))
    assert by_path["/big"].endswith(f" /big  {sha256(BIG)}")
    assert by_path["/small"] == f"-rw-r-----          6 /small  {sha256(b'hello' + bytes([10]))}"
    assert by_path["/link"].endswith("/link -> sub/again")


def test_walk_tree_says_what_is_damaged_and_goes_on(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image")
    flip(image, frames_of(image, "big")[7])
    lines = example("walk_tree", image, "pramfs").stdout.splitlines()
    assert " /big  damaged: pfn:" in lines[1]
    assert len(lines) == 11


def test_an_example_without_arguments_says_how_it_is_used() -> None:
    for path in sorted((CHECKOUT / "examples").glob("*.py")):
        asked = example(path.stem)
        assert asked.returncode == 1
        assert f"python examples/{path.name} " in asked.stderr
