"""What `--json` prints of mounts conforms to the schemas that ship."""

from pathlib import Path
from typing import Any

from tests.mounted.harness import Volume, pramfs
from tests.support.json_schemas import conforming


def told(command: str, target: Path) -> dict[str, Any]:
    return dict(conforming(command, pramfs(command, "--json", target).succeeded().text))


def test_a_mount_that_has_changed(volume: Volume) -> None:
    point = volume.mount("noatime,banned=0-64K")
    (point / "file").write_bytes(b"x" * 10_000)
    status = told("status", point)
    assert (status["mountpoint"], status["image"]) == (str(point), str(volume.image))
    assert "noatime" in status["options"]
    info = told("info", point)
    assert info["mount"]["pid"] == status["pid"]
    assert info["frames"] == info["mount"]["frames"]
    assert told("map", point)["counts"]["new"] >= 3


def test_a_mount_that_is_read_only(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    point = volume.mount("ro")
    status = told("status", point)
    assert (status["read_only"], status["changed"]) == (True, False)
    assert told("info", point)["mount"]["generation"] == status["generation"]
