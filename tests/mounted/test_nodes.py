"""Nodes of one image: trees under several names, and byte streams beside them."""

from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, MOUNT_FAILED, USAGE, Volume, content_of, pramfs

PAYLOADS = {
    "empty": b"",
    "a byte": b"x",
    "a page": sample_trees.noise(4096),
    "big": sample_trees.noise(3 * MIB),
}


@pytest.fixture
def image(volume: Volume) -> Path:
    """An image with an empty tree in it, not mounted."""
    volume.mount()
    volume.umount()
    return volume.image


def names_in(image: Path) -> set[str]:
    """The first words of the lines of `pramfs nodes`."""
    return {
        line.split()[0] for line in pramfs("nodes", image).succeeded().text.splitlines() if line
    }


def test_trees_of_two_names_leave_each_other_alone(volume: Volume) -> None:
    root = volume.mount("name=left")
    sample_trees.plant_files(root, 50, seed=1)
    left = sample_trees.snapshot(root)

    volume.remount("name=right")
    assert list(root.iterdir()) == []
    sample_trees.plant_files(root, 50, seed=2)
    right = sample_trees.snapshot(root)

    volume.remount("name=left")
    sample_trees.assert_same(sample_trees.snapshot(root), left)
    (root / "new").touch()
    volume.remount("name=right")
    sample_trees.assert_same(sample_trees.snapshot(root), right)
    volume.remount("name=left")
    assert (root / "new").exists()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_put_and_get(volume: Volume, image: Path, payload: bytes) -> None:
    pramfs("put", image, "notes", stdin=payload).succeeded()
    volume.check()
    assert "notes" in names_in(image)
    assert pramfs("get", image, "notes").succeeded().out == payload
    assert pramfs("get", image, "notes").succeeded().out == payload


def test_a_mount_leaves_nodes_alone(volume: Volume, image: Path) -> None:
    pramfs("put", image, "notes", stdin=PAYLOADS["big"]).succeeded()
    root = volume.mount()
    sample_trees.plant_files(root, 50)
    volume.save()
    before = sample_trees.snapshot(root)
    volume.umount()
    assert pramfs("get", image, "notes").succeeded().out == PAYLOADS["big"]

    pramfs("put", image, "more", stdin=b"more").succeeded()
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    volume.umount()
    assert {"notes", "more"} <= names_in(image)


def test_nodes_are_listed_in_the_order_they_were_put(image: Path) -> None:
    names = ["zebra", "ant", "mule"]
    for name in names:
        pramfs("put", image, name, stdin=b"x").succeeded()
    listed = [line.split()[0] for line in pramfs("nodes", image).text.splitlines()]
    assert [name for name in listed if name in names] == names


def test_free_one_node(volume: Volume, image: Path) -> None:
    before = names_in(image)
    used = volume.info()["frames"]["used"]
    pramfs("put", image, "keep", stdin=b"kept").succeeded()
    pramfs("put", image, "drop", stdin=PAYLOADS["big"]).succeeded()
    pramfs("free", image, "drop").succeeded()
    assert names_in(image) == before | {"keep"}
    assert pramfs("get", image, "keep").succeeded().out == b"kept"
    pramfs("free", image, "keep").succeeded()
    assert volume.info()["frames"]["used"] == used


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("free", "missing", "no node 'missing'"),
        ("get", "missing", "no node 'missing'"),
        ("put", "n" * 256, "too long: 256 bytes"),
        ("put", "there", "node 'there' already exists"),
        ("put", "too big", "no free frames"),
    ],
)
def test_what_is_wrong_with_a_node_is_told_with_its_image(
    image: Path, command: str, name: str, words: str
) -> None:
    pramfs("put", image, "there", stdin=b"there").succeeded()
    before = content_of(image)
    given = bytes(64 * MIB) if name == "too big" else b""
    told = pramfs(command, image, name, stdin=given).refused(MOUNT_FAILED, words)
    assert told.err.startswith(f"pramfs: {image}: ")
    assert content_of(image) == before


def test_free_takes_no_part_of_a_tree(volume: Volume, image: Path) -> None:
    for part in ("pramfs-meta", "pramfs-data", "pramfs-more"):
        pramfs("free", image, part).refused(USAGE, part, "part of the tree")
    volume.check()
    pramfs("free", image, "pramfs").succeeded()
    assert names_in(image) == set()


def test_a_node_and_a_tree_of_one_name_are_told_apart(volume: Volume, image: Path) -> None:
    trees = names_in(image)
    pramfs("put", image, "pramfs", stdin=b"mine").refused(USAGE, "a tree has that name")
    pramfs("put", image, "later", stdin=b"mine").succeeded()
    volume.mount("name=later")
    volume.umount()
    pramfs("free", image, "later").succeeded()
    assert names_in(image) == trees | {"later-meta", "later-data", "later-more"}
    pramfs("free", image, "later").succeeded()
    assert names_in(image) == trees


def test_free_everything(volume: Volume, image: Path) -> None:
    pramfs("put", image, "notes", stdin=PAYLOADS["big"]).succeeded()
    used = volume.info()["frames"]["used"]
    told = pramfs("free", image).succeeded().text
    assert names_in(image) == set()
    frames = used - volume.info()["frames"]["used"]
    assert told.startswith(f"{image}: freed pramfs, notes; {frames} frames came free, generation ")
    assert "freed nothing; 0 frames came free" in pramfs("free", image).succeeded().text
    volume.check()
    assert list(volume.mount().iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["put", "taken"], ["taken", "exists"]),
        (["put", "n" * 256], ["too long"]),
        (["get", "absent"], ["absent"]),
        (["free", "absent"], ["absent"]),
    ],
    ids=lambda value: value[0],
)
def test_refusals(volume: Volume, image: Path, command: list[str], words: list[str]) -> None:
    pramfs("put", image, "taken", stdin=b"first").succeeded()
    before = content_of(image)
    verb, name = command
    pramfs(verb, image, name, stdin=b"second").refused(MOUNT_FAILED, *words)
    assert content_of(image) == before
    volume.check()


@pytest.mark.parametrize("verb", ["put", "free"])
def test_nodes_of_a_mounted_image_cannot_be_changed(volume: Volume, verb: str) -> None:
    volume.mount()
    pramfs(verb, volume.image, "notes", stdin=b"x").refused(
        MOUNT_FAILED, f"in use by process {volume.pid}, mounted at {volume.root}"
    )


def test_a_put_that_does_not_fit_changes_nothing(volume: Volume, image: Path) -> None:
    pramfs("put", image, "taken", stdin=b"first").succeeded()
    before = names_in(image)
    pramfs("put", image, "huge", stdin=bytes(65 * MIB)).refused(MOUNT_FAILED, "no free frames")
    assert names_in(image) == before
    volume.check()


@pytest.mark.parametrize("verb", ["nodes", "get", "free", "info", "check"])
def test_commands_refuse_what_is_not_an_image(tmp_path: Path, verb: str) -> None:
    file = tmp_path / "text"
    file.write_text("not an image\n" * 1000)
    arguments = ["notes"] if verb == "get" else []
    code = 8 if verb == "check" else MOUNT_FAILED
    pramfs(verb, file, *arguments).refused(code, str(file), "not a pram image")
    pramfs(verb, tmp_path / "absent", *arguments).refused(code, str(tmp_path / "absent"))
    assert file.read_text() == "not an image\n" * 1000
    assert not (tmp_path / "absent").exists()
