"""`pramfs dump`: every structure field by field, right or wrong."""

from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import EXIT_FAILED
from pramfs.storage.layout import LinkHeader, NodePage, SuperBlock
from tests.support.image_files import flip, frames_of, links_of, make_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "pram")


def dump(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["dump", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_super_block_and_all_nodes_are_shown(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = dump(capsys, image)
    assert text.startswith("super block at pfn:")
    for field in {*SuperBlock._fields, *NodePage._fields}:
        assert f"\n  {field:<14}" in text
    for name in ("note", "pramfs-meta", "pramfs-data"):
        assert f"  name          '{name}'\n" in text
    assert "link at" not in text
    assert "WRONG" not in text


def test_one_node_with_its_links(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dump(capsys, "--node", "pramfs-data", "--links", image)
    assert text.count("node at pfn:") == 1
    assert "super block" not in text
    for pfn in links_of(image, "pramfs-data"):
        assert f"link at pfn:{pfn:x}\n" in text
    for field in LinkHeader._fields:
        assert f"\n  {field:<14}" in text
    for pfn in frames_of(image, "big"):
        assert f"  0x{pfn:<8x}  " in text


def test_a_frame_is_shown_for_what_it_is(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = links_of(image, "note")[0]
    assert dump(capsys, "--pfn", f"{link:x}", image).startswith(f"link at pfn:{link:x}\n")
    data = frames_of(image, "small")[0]
    text = dump(capsys, "--pfn", f"{data:x}", image)
    assert f"page at pfn:{data:x}, data or unused" in text
    assert "hello." in text


def test_a_wrong_checksum_is_shown_beside_the_right_one(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = links_of(image, "note")[0]
    flip(image, link)
    assert "WRONG, computed 0x" in dump(capsys, "--pfn", f"{link:x}", image)
    text = dump(capsys, image)
    assert f"damage: node 'note': pfn:{link:x} corrupted (link checksum)" in text


@pytest.mark.parametrize("words", [("--node", "nobody"), ("--pfn", "200000")], ids=["node", "pfn"])
def test_what_is_not_there_is_an_error(image: Path, words: tuple[str, str]) -> None:
    assert main(["dump", *words, str(image)]) == EXIT_FAILED
