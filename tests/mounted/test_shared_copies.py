"""Files that cp(1) has copied share their frames until one is changed, over kills and remounts."""

import json
import mmap
import os
from pathlib import Path

from tests.mounted.harness import MIB, PAGE, Volume, pramfs, run
from tests.mounted.sample_trees import noise

SIZE = 20 * MIB - 1000  # the last page is a part of one


def used(volume: Volume) -> int:
    frames: int = volume.status()["frames"]["used"]
    return frames


def spared(volume: Volume) -> int:
    frames: int = volume.status()["frames"]["spared"]
    return frames


def original(point: Path) -> Path:
    """A file of `SIZE` bytes that the kernel has handed over, so that all its frames are known."""
    (point / "original").write_bytes(noise(SIZE))
    run("sync", point / "original").succeeded()
    return point / "original"


def test_a_copy_takes_no_frames(volume: Volume) -> None:
    point = volume.mount()
    file = original(point)
    before = used(volume)
    for name in ("one", "two", "three"):
        run("cp", file, point / name).succeeded()
    assert used(volume) == before
    assert spared(volume) == 3 * -(-SIZE // PAGE)
    volume.remount()
    assert spared(volume) == 3 * -(-SIZE // PAGE)
    for name in ("one", "two", "three"):
        assert (point / name).read_bytes() == noise(SIZE)
    counts = json.loads(pramfs("map", "--json", point).succeeded().text)["counts"]
    assert counts["shared"] == -(-SIZE // PAGE)
    assert "sharing spares" in pramfs("info", point).succeeded().text


def test_a_change_of_one_is_no_change_of_the_others(volume: Volume) -> None:
    point = volume.mount()
    file = original(point)
    run("cp", file, point / "written").succeeded()
    run("cp", file, point / "mapped").succeeded()
    run("cp", file, point / "cut").succeeded()
    with (point / "written").open("r+b") as written:
        written.seek(5 * PAGE + 3)
        written.write(b"changed")
    with (point / "mapped").open("r+b") as mapped, mmap.mmap(mapped.fileno(), 0) as memory:
        memory[10 * PAGE] = 7
        memory.flush()
    os.truncate(point / "cut", PAGE + 1)
    content = noise(SIZE)
    expected = {
        "original": content,
        "written": content[: 5 * PAGE + 3] + b"changed" + content[5 * PAGE + 10 :],
        "mapped": content[: 10 * PAGE] + b"\7" + content[10 * PAGE + 1 :],
        "cut": content[: PAGE + 1],
    }
    for _ in range(2):
        for name, bytes_ in expected.items():
            assert (point / name).read_bytes() == bytes_, name
        volume.remount()
    file.unlink()
    volume.remount()
    assert (point / "written").read_bytes() == expected["written"]


def test_a_kill_leaves_what_was_saved_of_clones(volume: Volume) -> None:
    point = volume.mount()
    file = original(point)
    run("cp", file, point / "clone").succeeded()
    volume.save()
    with (point / "clone").open("r+b") as clone:
        clone.write(bytes(3 * MIB))
    run("sync", point / "clone").succeeded()
    file.unlink()
    volume.kill()
    volume.mount()
    assert file.read_bytes() == (point / "clone").read_bytes() == noise(SIZE)


def test_a_whole_image_of_clones(volume: Volume) -> None:
    """More bytes than there is room for, as long as they are the same."""
    point = volume.mount()
    file = original(point)
    for number in range(50):
        run("cp", file, point / str(number)).succeeded()
    total = sum(path.stat().st_size for path in point.iterdir())
    assert total > 10 * volume.status()["frames"]["total"] * PAGE
    volume.remount()
    assert (point / "49").read_bytes() == noise(SIZE)
    extracted = volume.image.parent / "extracted"
    pramfs("extract", "-C", extracted, volume.image, "7").succeeded()
    assert (extracted / "7").read_bytes() == noise(SIZE)
