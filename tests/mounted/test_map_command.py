"""`pramfs map` of a mount: what is new, what the last save alone needs, and what is banned."""

import json

from tests.mounted.harness import MIB, PAGE, Volume, pramfs


def test_a_mount_shows_its_frames_as_they_are(volume: Volume) -> None:
    point = volume.mount("banned=0-1M")
    (point / "stays").write_bytes(b"s" * MIB)
    (point / "goes").write_bytes(b"g" * MIB)
    volume.save()
    (point / "goes").unlink()
    (point / "comes").write_bytes(b"c" * 2 * MIB)
    counts = json.loads(pramfs("map", "--json", point).succeeded().text)["counts"]
    assert counts["banned"] == MIB // PAGE
    assert counts["damaged"] == 0
    assert counts["reserved"] >= MIB // PAGE
    assert counts["data"] >= MIB // PAGE
    assert counts["new"] >= 2 * MIB // PAGE
    assert sum(counts.values()) == volume.status()["frames"]["total"]
    chosen = json.loads(pramfs("map", "--json", "--file", "stays", point).succeeded().text)
    assert chosen["counts"]["chosen"] == MIB // PAGE


def test_a_mount_is_drawn(volume: Volume) -> None:
    point = volume.mount()
    (point / "file").write_bytes(b"x" * MIB)
    assert "# data: " not in pramfs("map", point).succeeded().text
    volume.save()
    assert "# data: " in pramfs("map", point).succeeded().text


def test_a_tree_is_read_beside_its_mount(volume: Volume) -> None:
    point = volume.mount()
    (point / "file").write_bytes(b"as saved")
    volume.save()
    (point / "file").write_bytes(b"changed since")
    assert pramfs("cat", volume.image, "file").succeeded().text == "as saved"
