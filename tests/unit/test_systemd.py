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


@pytest.mark.parametrize(
    ("told", "number"),
    [("252.38-1~deb12u1\n", 252), ("262~rc1-1\n", 262), ("261\n", 261), ("", 0)],
)
def test_the_number_of_systemd_is_what_its_version_begins_with(
    told: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero where it cannot be asked, too."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nprintf '{told}'\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(systemd, "_UNITS", tmp_path)
    assert systemd.version() == number
    monkeypatch.setattr(systemd, "_UNITS", tmp_path / "none")
    assert systemd.version() == 0
