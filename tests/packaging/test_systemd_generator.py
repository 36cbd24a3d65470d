"""What the generator makes of fstab. That systemd heeds it is shown by the tier that boots."""

from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.support.checkout import CHECKOUT

GENERATOR = CHECKOUT / "share/systemd/pramfs-generator"


def patient_units(fstab: str, place: Path) -> set[str]:
    """The units that get the time that they need, by a table of these lines."""
    (place / "fstab").write_text(fstab)
    run(GENERATOR, place / "units", env={"SYSTEMD_FSTAB": str(place / "fstab")}).succeeded()
    drop_ins = list((place / "units").glob("*.mount.d/50-pramfs.conf"))
    assert all(path.read_text() == "[Mount]\nTimeoutSec=infinity\n" for path in drop_ins)
    return {path.parent.name.removesuffix(".d") for path in drop_ins}


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("/srv/a.img /mnt/a pramfs size=1G 0 0", "mnt-a.mount"),
        ("/srv/a.img\t/mnt/a\tfuse.pramfs", "mnt-a.mount"),
        ("  /srv/a.img /mnt/a/ pramfs noauto,x-systemd.automount", "mnt-a.mount"),
        (r"/srv/a\040b.img /mnt/with\040blank-x pramfs defaults", r"mnt-with\x20blank\x2dx.mount"),
        (r"/srv/a.img /mnt/100\045%d\134x pramfs", r"mnt-100\x25\x25d\x5cx.mount"),
    ],
)
def test_a_line_of_fstab_gets_the_time_that_it_needs(line: str, unit: str, tmp_path: Path) -> None:
    assert patient_units(f"{line}\n", tmp_path) == {unit}
    assert patient_units(f"# comment\n\n{line}", tmp_path) == {unit}


@pytest.mark.parametrize(
    "line",
    [
        "#/srv/a.img /mnt/a pramfs",
        "/dev/vda / ext4 defaults",
        "/srv/a.img /mnt/a pramfs size=1G,x-systemd.mount-timeout=5min 0 0",
    ],
)
def test_other_lines_are_left_alone(line: str, tmp_path: Path) -> None:
    assert patient_units(f"{line}\n", tmp_path) == set()


def test_one_line_that_makes_no_sense_hides_no_other(tmp_path: Path) -> None:
    fstab = "/srv/a.img\n/srv/b.img none pramfs\n/srv/c.img /mnt/c pramfs\n"
    assert patient_units(fstab, tmp_path) == {"mnt-c.mount"}


def test_without_fstab_there_is_nothing_to_do(tmp_path: Path) -> None:
    run(GENERATOR, tmp_path, env={"SYSTEMD_FSTAB": str(tmp_path / "fstab")}).succeeded()
    assert not list(tmp_path.glob("*.mount.d"))


def test_units_of_all_places_get_the_time_but_those_that_somebody_has_replaced(
    tmp_path: Path,
) -> None:
    """A unit of the administrator hides one of a package, also if it is a link to /dev/null."""
    ours, packages = tmp_path / "etc", tmp_path / "usr"
    ours.mkdir()
    packages.mkdir()
    unit = "[Mount]\nWhat=/srv/a.img\nWhere=/mnt/{}\nType=pramfs\n"
    for name in ("packaged", "replaced", "masked"):
        (packages / f"mnt-{name}.mount").write_text(unit.format(name))
    (ours / "mnt-own.mount").write_text(unit.format("own"))
    (ours / "mnt-replaced.mount").write_text(unit.format("replaced") + "TimeoutSec=5\n")
    (ours / "mnt-masked.mount").symlink_to("/dev/null")
    environment = {
        "SYSTEMD_FSTAB": str(tmp_path / "fstab"),
        "SYSTEMD_UNIT_PATH": f"{ours}:{packages}",
    }
    run(GENERATOR, tmp_path / "units", env=environment).succeeded()
    found = {path.parent.name for path in (tmp_path / "units").glob("*.mount.d/50-pramfs.conf")}
    assert found == {"mnt-own.mount.d", "mnt-packaged.mount.d"}


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("/dev/shm/a.img", "/proc/self/root/dev/shm/a.img"),
        (r"/dev/shm/100%\040a.img", "/proc/self/root/dev/shm/100%% a.img"),
    ],
)
@pytest.mark.parametrize("options", ["size=1G", "x-systemd.mount-timeout=5min"])
def test_an_image_below_dev_is_not_taken_for_a_device(
    image: str, what: str, options: str, tmp_path: Path
) -> None:
    patient_units(f"{image} /mnt/a pramfs {options} 0 0\n", tmp_path)
    drop_in = tmp_path / "units/mnt-a.mount.d/50-pramfs-image.conf"
    assert drop_in.read_text() == f"[Mount]\nWhat={what}\n"


@pytest.mark.parametrize("image", ["/srv/a.img", "/dev/pmem0", "/dev/shmem"])
def test_the_path_of_other_images_stays(image: str, tmp_path: Path) -> None:
    patient_units(f"{image} /mnt/a pramfs size=1G 0 0\n", tmp_path)
    assert not (tmp_path / "units/mnt-a.mount.d/50-pramfs-image.conf").exists()


@pytest.mark.parametrize(
    ("told", "is_kept"),
    [
        ("systemd 252 (252.38-1~deb12u1)\n+PAM", False),
        ("systemd 260 (260.2-1)\n+PAM", False),
        ("systemd 261 (261~rc1-1)\n+PAM", True),
        ("systemd 262 (262.1)\n+PAM", True),
        ("", False),
    ],
)
def test_images_are_kept_over_a_kexec_by_a_systemd_that_can(
    told: str, is_kept: bool, tmp_path: Path
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\ncat <<'END'\n{told}\nEND\n")
    systemctl.chmod(0o755)
    # The generator has a path of its own.
    generator = tmp_path / "generator"
    path = f"export PATH={tmp_path}:"
    generator.write_text(GENERATOR.read_text().replace("export PATH=", path, 1))
    generator.chmod(0o755)
    environment = {"SYSTEMD_FSTAB": str(tmp_path / "fstab")}
    run(generator, tmp_path / "units", env=environment).succeeded()
    drop_in = tmp_path / "units/pramfs-claim.service.d/50-pramfs.conf"
    assert drop_in.exists() == is_kept
    assert not is_kept or drop_in.read_text() == "[Service]\nFileDescriptorStorePreserve=yes\n"
