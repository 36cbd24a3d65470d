"""Pages that go out to a disk before a save, and images that are larger than memory."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.mounted.harness import MIB, Volume, wait_until
from tests.mounted.system import memory_limit

# Written, and allowed to the daemon besides some 50 MiB that it has by then.
WRITTEN_MIB, MEMORY_MIB = (4096, (512, 128)) if LONG else (320, (160, 96))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Volume]:
    """A volume whose image is no memory."""
    volume = Volume(tmp_path, "memory", size=f"{2 * WRITTEN_MIB}M")
    yield volume
    volume.finish()


def fill(path: Path, mebibytes: int, *, first: int = 0) -> str:
    """Write a file of pages that differ, in the place of what is there; a digest of it."""
    digest = hashlib.sha256()
    with path.open("r+b" if path.exists() else "wb") as file:
        for number in range(first, first + mebibytes):
            data = number.to_bytes(8, "little") * (MIB // 8)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def written_back(volume: Volume) -> int:
    """Pages that no save knows of, and that are in the image."""
    status = volume.status()
    return int(status["unpublished_pages"] - status["unwritten_pages"])


def test_what_is_too_much_goes_out_before_a_save(disk: Volume) -> None:
    root = disk.mount("writeback=1")
    wanted = fill(root / "file", 100)
    os.sync()
    wait_until(lambda: written_back(disk) > 0, "pages to go out")
    assert disk.status()["generation"] == 2
    assert digest_of(root / "file") == wanted
    with (root / "file").open("r+b") as file:
        file.write(b"changed")
    disk.umount()
    root = disk.mount()
    with (root / "file").open("rb") as file:
        assert file.read(8) == b"changed\0"
    (root / "file").unlink()
    disk.umount()


def test_a_disk_is_left_alone_if_it_shall_be(disk: Volume) -> None:
    root = disk.mount("writeback=0")
    fill(root / "file", 100)
    os.sync()
    before = disk.image.stat().st_blocks
    (root / "other").touch()
    assert written_back(disk) == 0
    assert disk.image.stat().st_blocks == before < MIB // 512
    disk.umount()


def test_a_daemon_that_is_killed_meanwhile_leaves_the_last_save(disk: Volume) -> None:
    root = disk.mount("writeback=1")
    (root / "kept").write_text("kept")
    disk.save()
    fill(root / "file", 100)
    os.sync()
    wait_until(lambda: written_back(disk) > 0, "pages to go out")
    disk.kill()
    disk.check()
    assert disk.image.stat().st_blocks > MIB // 512
    root = disk.mount()
    assert disk.image.stat().st_blocks < MIB // 512, "what nobody refers to takes space still"
    assert [path.name for path in root.iterdir()] == ["kept"]
    disk.umount()


@pytest.mark.parametrize("memory_mib", MEMORY_MIB)
def test_an_image_may_be_larger_than_memory(disk: Volume, memory_mib: int) -> None:
    """What was unsaved filled the machine or its control group, and the daemon was killed."""
    root = disk.mount("writeback=0")
    with memory_limit(disk.daemon.pid, memory_mib * MIB):
        wanted = fill(root / "file", WRITTEN_MIB)
        assert digest_of(root / "file") == wanted
        with (root / "file").open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"x" * 3 * MIB)
        changed = digest_of(root / "file")
        disk.umount()
    root = disk.mount()
    assert digest_of(root / "file") == changed != wanted
    disk.umount()


def test_a_file_larger_than_memory_may_be_written_all_over(disk: Volume) -> None:
    """Pages that had gone out came back into memory unasked, and the daemon was killed."""
    root = disk.mount("writeback=0")
    with memory_limit(disk.daemon.pid, MEMORY_MIB[0] * MIB):
        fill(root / "file", WRITTEN_MIB)
        wanted = fill(root / "file", WRITTEN_MIB, first=1)
        assert digest_of(root / "file") == wanted
        disk.umount()
    root = disk.mount()
    assert digest_of(root / "file") == wanted
    disk.umount()
