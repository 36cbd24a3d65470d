"""`pramfs map`: a picture that shows every frame for what it is."""

import json
import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from operator import sub
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pramfs.cli.main import main
from pramfs.errors import EXIT_FAILED
from pramfs.offline.frame_map import KINDS, draw, on_terminal
from pramfs.offline.scan import scan_image
from pramfs.storage.frames import BANNED, FREE, FRESH, HELD, SAVED
from pramfs.storage.image import open_image
from tests.support.image_files import flip, frames_of, links_of, make_image

FRAMES = 512
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "pram", frames=FRAMES)


def kinds(capsys: pytest.CaptureFixture[str], *words: object) -> dict[int, str]:
    """The kind of each frame, as a program reads it."""
    assert main(["map", "--json", *map(str, words)]) == 0
    return dict(_frames(json.loads(capsys.readouterr().out)))


def _frames(picture: dict[str, Any]) -> Iterator[tuple[int, str]]:
    for run in picture["runs"]:
        for pfn in range(run["pfn"], run["pfn"] + run["frames"]):
            yield pfn, run["kind"]


def test_every_frame_has_its_kind(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = kinds(capsys, image)
    assert list(shown) == list(range(FRAMES))
    with open_image(image, writable=False) as opened:
        found = scan_image(opened)
    assert {pfn for pfn, kind in shown.items() if kind == "super"} == {
        found.current.pfn,
        found.current.other_pfn,
    }
    of_nodes = {scanned.node.pfn for scanned in found.nodes.values()}
    assert {pfn for pfn, kind in shown.items() if kind == "node"} == of_nodes
    links = {pfn for name in found.nodes for pfn in links_of(image, name)}
    assert {pfn for pfn, kind in shown.items() if kind == "link"} == links
    assert {shown[pfn] for pfn in frames_of(image, "big")} == {"data"}
    assert "damaged" not in shown.values()
    in_use = sum(kind in {"super", "node", "link", "data"} for kind in shown.values())
    assert in_use == found.current.frames_used


def test_damage_is_shown_where_it_is(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = {frames_of(image, "big")[7], links_of(image, "note")[0]}
    for pfn in damaged:
        flip(image, pfn)
    shown = kinds(capsys, image)
    assert {pfn for pfn, kind in shown.items() if kind == "damaged"} == damaged


def test_a_file_and_a_node_are_shown(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = kinds(capsys, "--file", "big", image)
    chosen = {pfn for pfn, kind in shown.items() if kind == "chosen"}
    assert chosen == set(frames_of(image, "big"))
    shown = kinds(capsys, "--node", "note", image)
    chosen = {pfn for pfn, kind in shown.items() if kind == "chosen"}
    assert set(links_of(image, "note")) < chosen
    assert len(chosen) == 3  # node, link, data


def test_a_mount_tells_more_of_its_frames(image: Path) -> None:
    with open_image(image, writable=False) as opened:
        found = scan_image(opened)
        data = found.nodes["note"].chain.entries.pfns[0]
        states = bytearray((FREE,)) * (FRAMES + 4)
        states[data], states[300], states[301], states[302] = HELD, SAVED, FRESH, BANNED
        picture = draw(found, states=bytes(states))
    shown = dict(_frames({"runs": [{"kind": k, **r._asdict()} for k, r in picture.extents()]}))
    assert len(shown) == FRAMES + 4
    assert [shown[pfn] for pfn in (data, 301, 302, FRAMES + 2)] == [
        "reserved",
        "new",
        "banned",
        "free",
    ]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50), (40, 20)])
def test_the_picture_fits_the_terminal(
    image: Path, monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    with open_image(image, writable=False) as opened:
        drawn = list(on_terminal(draw(scan_image(opened), title="pram"), colour=False))
    assert len(drawn) <= lines
    assert all(len(line) <= max(columns, 60) for line in drawn)
    assert any(line.startswith("S super block: 2 frames") for line in drawn)
    assert any(line.startswith("# data: ") for line in drawn)


def test_colours_change_no_sign(image: Path) -> None:
    with open_image(image, writable=False) as opened:
        picture = draw(scan_image(opened))
    plain = list(on_terminal(picture, colour=False))
    coloured = list(on_terminal(picture, colour=True))
    assert coloured != plain
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain


def svg_of(image: Path, *words: str) -> ElementTree.Element:
    out = image.with_name("out.svg")
    assert main(["map", "--svg", str(out), *words, str(image)]) == 0
    return ElementTree.parse(out).getroot()


def texts_of(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def test_an_svg_tells_what_is_what_and_where(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pfn in (damaged := frames_of(image, "big")[3:5]):
        flip(image, pfn)
    svg = svg_of(image, "--file", "big")
    assert capsys.readouterr().out == ""
    texts = texts_of(svg)
    assert texts[0].endswith("/pram")
    assert texts[1:3] == [f"{FRAMES} frames, a square for 1 (4 KiB)", "0"]
    assert "super block: 2 frames, 8 KiB" in texts
    assert "what was asked for: 198 frames, 792 KiB" in texts
    told = [line for line in texts if line.startswith("damage: ")]
    assert [f"pfn:{pfn:x} " in line for pfn, line in zip(damaged, told, strict=True)] == [True] * 2


def test_an_svg_has_room_for_all_that_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 60)
    folder.mkdir()
    image = make_image(folder / "<&>\n", frames=1 << 16)
    links = links_of(image, "pramfs-data") + frames_of(image, "big")
    for pfn in links[-25:]:
        flip(image, pfn)
    svg = svg_of(image)
    width, height = (int(svg.get(side, "")) for side in ("width", "height"))
    for box in svg.iter(f"{SVG}rect"):
        right = int(box.get("x", "0")) + int(box.get("width", ""))
        assert right <= width
        assert int(box.get("y", "0")) + int(box.get("height", "")) <= height
    lines = [element for element in svg.iter(f"{SVG}text") if not element.get("text-anchor")]
    assert max(int(line.get("y", "")) for line in lines) <= height
    assert all(len(line.text or "") * 8 < width for line in lines)
    between = {int(b.get("y", "")) - int(a.get("y", "")) for a, b in pairwise(lines)}
    assert min(between) > 13
    assert texts_of(svg)[0].endswith(r"long/<&>\n")
    assert texts_of(svg)[-1] == "damage: and 5 more"
    pfns = [element.text for element in svg.iter(f"{SVG}text") if element.get("text-anchor")]
    assert pfns[:3] == ["0", "1000", "2000"]


def test_colours_can_be_told_apart() -> None:
    def channels(colour: str) -> list[int]:
        return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]

    for one, other in combinations(KINDS, 2):
        differences = map(sub, channels(one.colour), channels(other.colour))
        assert max(map(abs, differences)) > 30, f"{one.name} and {other.name}"


@pytest.mark.parametrize(
    "words", [("--file", "nobody"), ("--file", "sub"), ("--node", "nobody")], ids=str
)
def test_what_is_not_there_is_an_error(image: Path, words: tuple[str, str]) -> None:
    assert main(["map", *words, str(image)]) == EXIT_FAILED
