"""What scripts/install-helpers puts in place leads somewhere, and `--remove` takes all of it away."""

from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.packaging.conftest import System
from tests.support.checkout import CHECKOUT, VENV


def test_every_link_leads_to_a_file(system: System) -> None:
    assert system.links
    assert all((system.root / link).is_file() for link in system.links)


@pytest.mark.parametrize(
    ("section", "name", "heading"),
    [
        ("1", "pramfs", "PRAMFS(1)"),
        ("5", "pramfs", "PRAMFS(5)"),
        ("8", "mount.pramfs", "MOUNT.PRAMFS(8)"),
        ("8", "umount.pramfs", "UMOUNT.PRAMFS(8)"),
    ],
)
def test_man_finds_the_pages_and_renders_them_without_a_warning(
    system: System, section: str, name: str, heading: str
) -> None:
    env = {"MANPATH": str(system.share / "man"), "MANROFFOPT": "-ww"}
    shown = run("man", "--warnings", section, name, env=env).succeeded()
    assert shown.err == ""
    assert shown.text.startswith(heading)


def test_what_was_installed_can_be_installed_again_and_removed(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.install_helpers()
    links, copies = system.links, system.copies
    system.install_helpers()
    assert (system.links, system.copies) == (links, copies)
    system.install_helpers("--remove")
    assert (system.links, system.copies) == (set(), set())


def test_systemd_finds_the_generator_where_only_the_root_file_system_is_mounted(
    system: System,
) -> None:
    assert system.copies == {
        "usr/local/lib/systemd/pramfs-handover",
        "usr/local/lib/systemd/system-generators/pramfs-generator",
    }
    assert all((system.root / copy).stat().st_mode & 0o111 for copy in system.copies)


def test_the_generator_names_the_script_that_is_installed_with_it(
    system: System, tmp_path: Path
) -> None:
    directory = system.root / "usr/local/lib/systemd"
    run(directory / "system-generators/pramfs-generator", tmp_path).succeeded()
    unit = (tmp_path / "pramfs-handover.service").read_text()
    assert f"\nExecStop={directory}/pramfs-handover\n" in unit


def test_where_the_debian_package_is_installed_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/pramfs/pramfs").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    environment = {"DESTDIR": str(tmp_path), "PRAMFS_VENV": str(VENV)}
    outcome = run(CHECKOUT / "scripts/install-helpers", env=environment)
    outcome.refused(1, "the Debian package pramfs is installed", "apt-get remove pramfs")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_a_link_to_pramfs_is_left_alone(system: System, tmp_path: Path) -> None:
    others = System(tmp_path)
    for link in system.links:
        (others.root / link).parent.mkdir(parents=True, exist_ok=True)
        (others.root / link).symlink_to("/usr/share/something/else")
    for copy in system.copies:
        (others.root / copy).parent.mkdir(parents=True, exist_ok=True)
        (others.root / copy).write_text("something else\n")
    others.install_helpers("--remove")
    assert (others.links, others.copies) == (system.links, system.copies)
