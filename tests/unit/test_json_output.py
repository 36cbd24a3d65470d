"""What `--json` prints of images conforms to the schemas that ship, and docs/json.md has all their fields.

Mounts are in tests/mounted/test_json_of_mounts.py.
"""

import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from pramfs.cli.main import main
from tests.support.checkout import CHECKOUT
from tests.support.image_files import flip, frames_of, make_image
from tests.support.json_schemas import COMMANDS, FOLDER, conforming, fields, schema_of

PAGE = (CHECKOUT / "docs/json.md").read_text()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image")


@pytest.fixture
def damaged(image: Path) -> Path:
    flip(image, frames_of(image, "small")[0])
    return image


def told(capsys: pytest.CaptureFixture[str], command: str, *words: object) -> dict[str, Any]:
    main([command, "--json", *map(str, words)])
    return dict(conforming(command, capsys.readouterr().out))


def test_info_of_an_image(capsys: pytest.CaptureFixture[str], image: Path) -> None:
    info = told(capsys, "info", image)
    assert [node["name"] for node in info["nodes"]] == [
        "note",
        "pramfs-meta",
        "pramfs-more",
        "pramfs-data",
    ]
    assert info["trees"] == ["pramfs"]
    assert "mount" not in info


def test_check_of_a_clean_image(capsys: pytest.CaptureFixture[str], image: Path) -> None:
    assert told(capsys, "check", image)["clean"]


def test_check_of_a_damaged_image(capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    check = told(capsys, "check", damaged)
    assert not check["clean"]
    assert check["damage"] == ["tree 'pramfs': damaged: /small"]


def test_map_of_an_image(capsys: pytest.CaptureFixture[str], image: Path) -> None:
    picture = told(capsys, "map", "--file", "big", image)
    assert picture["counts"]["chosen"] == 200
    assert sum(run["frames"] for run in picture["runs"]) == picture["frames"]


def test_map_of_a_damaged_image(capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    picture = told(capsys, "map", damaged)
    assert picture["counts"]["damaged"] == len(picture["damage"]) == 1


def test_ls_of_an_image(capsys: pytest.CaptureFixture[str], image: Path) -> None:
    files = told(capsys, "ls", image, "small", "sub")["files"]
    assert [file["path"] for file in files] == ["small", "sub/again", "sub/tagged"]


def test_ls_of_a_damaged_image(capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    (file,) = told(capsys, "ls", "--recover", damaged, "small")["files"]
    assert file["damage"]


def test_snapshots_of_a_place(
    capsys: pytest.CaptureFixture[str], image: Path, tmp_path: Path
) -> None:
    assert main(["send", str(image), "--to", str(tmp_path / "place")]) == 0
    main(["snapshots", "--json", str(tmp_path / "place")])
    told = conforming("streams", capsys.readouterr().out)
    assert [stream["name"] for stream in told["streams"]] == ["pramfs"]


@pytest.mark.parametrize("name", [*COMMANDS, "status-list", "streams"])
def test_the_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(name))
    assert f"`{name}.json`" in PAGE


def test_every_schema_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*COMMANDS, "status-list", "streams"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_every_field_in_order(command: str) -> None:
    section = PAGE.partition(f"## `pramfs {command} --json ")[2].partition("\n## ")[0]
    assert f"`{command}.json`" in section
    rows = re.findall(r"^\| `([^`]+)` \| ", section, re.MULTILINE)
    assert rows == list(fields(command))


def test_the_page_has_every_field_of_a_place() -> None:
    section = PAGE.partition("## `pramfs snapshots --json URL")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ", section, re.MULTILINE)
    assert rows == list(fields("streams"))


def test_a_mount_in_info_is_described_as_in_status() -> None:
    """Without the age, which `pramfs status` adds."""
    status, info = schema_of("status"), schema_of("info")
    age = "saved_age_seconds"
    mount = info["$defs"]["mount"]
    assert mount["properties"] == {
        name: value for name, value in status["properties"].items() if name != age
    }
    assert mount["required"] == [name for name in status["required"] if name != age]
    assert info["$defs"]["frames"] == status["$defs"]["frames"]
