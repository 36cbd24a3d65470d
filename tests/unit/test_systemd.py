"""What systemd is told of a daemon. That it then waits for it is shown by the tier that boots."""

from pathlib import Path

import pytest

from pramfs.system import systemd


@pytest.mark.parametrize(
    ("mountpoint", "unit"),
    [
        ("/", "-.mount"),
        ("/mnt", "mnt.mount"),
        ("/srv/data/", "srv-data.mount"),
        ("/srv/with-dash", r"srv-with\x2ddash.mount"),
        ("/srv/with blank", r"srv-with\x20blank.mount"),
        ("/.hidden/a.b_c:d", r"\x2ehidden-a.b_c:d.mount"),
        (r"/a\b", r"a\x5cb.mount"),
        ("/a" * 150, ""),
    ],
)
def test_mount_units_are_named_as_systemd_escape_does(mountpoint: str, unit: str) -> None:
    assert systemd.mount_unit(Path(mountpoint)) == unit


def test_a_mountpoint_of_any_bytes_has_a_mount_unit() -> None:
    assert systemd.mount_unit(Path("/m\udcff")) == r"m\xff.mount"
