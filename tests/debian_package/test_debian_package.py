"""The package of each Debian release: apt installs it where there is no compiler, upgrades and removes it.

Each test starts anew: what one changes on a machine, the next does not see.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from pramfs import __version__
from tests.debian_package import build, trees
from tests.debian_package.trees import RELEASES, Release
from tests.distributions.chroot import Debian
from tests.vm.shell import run

TOOLS = ("apt-get", "chroot", "debootstrap", "dpkg-deb", "setpriv", "unshare")
TIMEOUT_S = 1800  # the first test may wait for two Debians of each release to be installed

SHELL = """\
set -eu
export DEBIAN_FRONTEND=noninteractive
fail() { echo "$*" >&2; exit 1; }
apt() { apt-get -qq -o Dpkg::Use-Pty=0 "$@" 2>&1; }
keep() {
    echo '/dev/shm/keep.pram /mnt/keep pramfs size=16M 0 0' >>/etc/fstab
    mkdir /mnt/keep
    mount /mnt/keep
}
daemon() { sed -n 's/.*"pid": \\([0-9]*\\),.*/\\1/p' /run/pramfs/*.state; }
"""

pytestmark = pytest.mark.timeout(TIMEOUT_S)


class Machine(NamedTuple):
    """A machine with packages in /tmp: pramfs.deb of this checkout, and next.deb with a higher version."""

    debian: Debian

    def run(self, script: str) -> str:
        return self.debian.run("sh", "-c", SHELL + script)


class Machines(NamedTuple):
    """Two machines of a release: one as it comes, and one that has what the package depends on."""

    bare: Machine
    prepared: Machine


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release.suite)
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machines:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("a chroot takes root")
    release = request.param
    assert isinstance(release, Release)
    package = build.build(release, tmp_path_factory.mktemp("build"))
    machines = Machines(
        Machine(trees.bare(release, tmp_path_factory.mktemp("bare"))),
        Machine(trees.builder(release, tmp_path_factory.mktemp("prepared"))),
    )
    for machine in machines:
        shutil.copy(package, machine.debian.tmp / "pramfs.deb")
    next_version = machines.prepared.debian.tmp / "next.deb"
    make_next_version(package, next_version, tmp_path_factory.mktemp("next"))
    return machines


@pytest.fixture
def machine(machines: Machines) -> Machine:
    return machines.prepared


def make_next_version(package: Path, to: Path, place: Path) -> None:
    """Make a package of version 99 that is the same otherwise."""
    tree = place / "tree"
    run("dpkg-deb", "--raw-extract", package, tree)
    for file, old in {
        "DEBIAN/control": "Version: ",
        "usr/lib/pramfs/pramfs/__init__.py": '"',
    }.items():
        text = (tree / file).read_text()
        assert old + __version__ in text
        (tree / file).write_text(text.replace(old + __version__, f"{old}99"))
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, to)


def test_apt_installs_it_without_a_compiler_and_fstab_mounts(machines: Machines) -> None:
    told = machines.bare.run("""
        for tool in cc gcc make pkg-config python3; do ! command -v $tool || fail "$tool is there"; done
        apt install --no-install-recommends /tmp/pramfs.deb >/dev/null
        for tool in cc gcc make pkg-config; do ! command -v $tool || fail "$tool came with it"; done
        pramfs --version
        keep
        echo 'worth keeping' >/mnt/keep/kept
        umount -v /mnt/keep
        pramfs check /dev/shm/keep.pram
        mount /mnt/keep
        cat /mnt/keep/kept
        mount -o remount,ro /mnt/keep
        umount -v /mnt/keep
    """)
    assert f"pramfs {__version__}\n" in told
    assert "not installed" not in told
    assert "/mnt/keep: unmounted; saved to /dev/shm/keep.pram, generation" in told
    assert "/dev/shm/keep.pram: clean" in told
    assert "worth keeping\n" in told


def test_an_ordinary_user_mounts(machine: Machine) -> None:
    told = machine.run("""
        apt install /tmp/pramfs.deb
        mknod /tmp/fuse c 10 229
        chmod 666 /tmp/fuse # as it is where udev runs
        mount --bind /tmp/fuse /dev/fuse
        ln -s ../proc/self/mounts /etc/mtab # as it is where systemd runs
        install -d -o nobody /mnt/keep /dev/shm/mine
        as_nobody() { setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/tmp "$@"; }
        as_nobody pramfs mount -o size=16M /dev/shm/mine/image /mnt/keep
        as_nobody sh -c 'echo worth keeping >/mnt/keep/kept'
        as_nobody umount -v /mnt/keep
        as_nobody pramfs cat /dev/shm/mine/image kept
    """)
    assert "saved to /dev/shm/mine/image" in told
    assert told.endswith("worth keeping\n")


def test_every_program_and_page_is_where_it_is_looked_for(machine: Machine) -> None:
    told = machine.run("""
        apt install /tmp/pramfs.deb >/dev/null
        for name in mount.pramfs mount.fuse.pramfs umount.pramfs umount.fuse.pramfs; do
            test -x /sbin/$name
            test -e /usr/share/man/man8/$name.8.gz
        done
        test -e /usr/share/man/man1/pramfs.1.gz
        test -e /usr/share/man/man5/pramfs.5.gz
        test -e /usr/share/bash-completion/completions/pramfs.bash
        test -e /usr/share/zsh/vendor-completions/_pramfs
        test -e /usr/share/fish/vendor_completions.d/pramfs.fish
        test -e /usr/share/doc/pramfs/docs/install.md
        test -e /usr/share/pramfs/schema/status.json
        mkdir /tmp/units
        /usr/lib/systemd/system-generators/pramfs-generator /tmp/units
        for name in @ -claim -hold -restore; do
            test -e /usr/lib/systemd/system/pramfs$name.service
        done
        for unit in /tmp/units/*.service /usr/lib/systemd/system/pramfs*.service; do
            sed -n 's/^ExecSt[a-z]*=\\([^ ]*\\).*/\\1/p' "$unit"
        done | while read -r program; do
            test -x "$program" || fail "$program is not there"
            echo "$program"
        done
    """)
    assert {"/usr/bin/pramfs", "/usr/lib/systemd/pramfs-handover"} <= set(told.splitlines())


def test_systemd_is_told(machine: Machine) -> None:
    told = machine.run("""
        mkdir -p /run/systemd/system # apt gives maintainer scripts a PATH without /usr/local
        printf '#!/bin/sh\\necho systemctl "$@"\\n' >/usr/bin/systemctl
        chmod +x /usr/bin/systemctl
        for step in 'install /tmp/pramfs.deb' 'install /tmp/next.deb' 'remove pramfs'; do
            apt $step | grep ^systemctl
            echo
        done
    """)
    installed = "systemctl daemon-reload\nsystemctl --quiet start pramfs-handover.service\n"
    removed = "systemctl --quiet stop pramfs-handover.service pramfs-users.service\nsystemctl daemon-reload\n"
    assert told == f"{installed}\n{installed}\n{removed}\n"


def test_nothing_that_pip_or_the_environment_brings_gets_in(machine: Machine) -> None:
    told = machine.run("""
        apt install /tmp/pramfs.deb >/dev/null
        packages=$(python3 -c 'import site; print(site.getsitepackages()[0])')
        mkdir -p "$packages" /tmp/path
        for place in "$packages" /tmp/path; do
            echo 'raise SystemExit("not ours")' | tee "$place/pramfs.py" "$place/trio.py" >"$place/pyfuse3.py"
        done
        echo 'import trio' >"$packages/trio.pth"
        export PYTHONPATH=/tmp/path
        cd /tmp/path
        pramfs --version
        keep
        umount -v /mnt/keep
    """)
    assert "saved to" in told
    assert "not ours" not in told


def test_an_upgrade_leaves_mounts_alone_and_its_helper_unmounts_them(machine: Machine) -> None:
    told = machine.run("""
        apt install /tmp/pramfs.deb
        keep
        before=$(daemon)
        echo before >/mnt/keep/before
        apt install /tmp/next.deb
        pramfs --version
        [ "$(daemon)" = "$before" ] || fail 'another daemon'
        kill -0 "$before"
        cat /mnt/keep/before
        echo after >/mnt/keep/after
        pramfs status /mnt/keep
        pramfs save /mnt/keep
        mount -o remount,ro /mnt/keep
        mount -o remount,rw /mnt/keep
        dd if=/dev/zero of=/mnt/keep/zeros bs=64K count=64 2>/dev/null
        umount -v /mnt/keep
        mount /mnt/keep
        cat /mnt/keep/after
        umount -v /mnt/keep
        pramfs check /dev/shm/keep.pram
    """)
    assert "pramfs 99\n" in told
    assert told.count("/mnt/keep: unmounted; saved to /dev/shm/keep.pram, generation") == 2
    assert "before\n" in told
    assert "\nafter\n" in told
    assert "clean" in told


def test_removed_and_purged_it_leaves_mounts_and_images_and_nothing_else(machine: Machine) -> None:
    told = machine.run("""
        everything() { find / -xdev ! -path '/var/*' ! -path /mnt/keep | sort; }
        everything >/run/before
        apt install /tmp/pramfs.deb
        keep
        echo 'worth keeping' >/mnt/keep/kept
        apt remove pramfs
        everything | diff /run/before - || fail 'this is left, or gone'
        cat /mnt/keep/kept
        apt purge pramfs
        everything | diff /run/before - || fail 'this is left, or gone'
        ! ls -d /var/lib/dpkg/info/pramfs.* || fail 'dpkg still knows it'
        echo 'written without it' >/mnt/keep/later
        daemon=$(daemon)
        umount -i /mnt/keep
        while kill -0 "$daemon" 2>/dev/null; do sleep 0.1; done
        apt install /tmp/pramfs.deb
        pramfs check /dev/shm/keep.pram
        pramfs cat /dev/shm/keep.pram kept later
    """)
    assert "/dev/shm/keep.pram: clean" in told
    assert told.endswith("worth keeping\nwritten without it\n")


def test_its_units_are_not_enabled_unasked_and_purged_with_it(machine: Machine) -> None:
    told = machine.run("""
        apt install /tmp/pramfs.deb >/dev/null
        enabled() { find /etc/systemd/system -name 'pramfs*' -printf '%f\\n' | sort; }
        enabled
        cd /etc/systemd/system
        mkdir -p local-fs.target.wants multi-user.target.wants # as systemctl enable does
        ln -s /usr/lib/systemd/system/pramfs-claim.service local-fs.target.wants
        ln -s /usr/lib/systemd/system/pramfs@.service multi-user.target.wants/pramfs@data.service
        apt install /tmp/next.deb >/dev/null
        enabled
        apt purge pramfs >/dev/null
        enabled
    """)
    assert told == "pramfs-claim.service\npramfs@data.service\n"


HELPERS = """
    mkdir -p /tmp/venv/bin
    for name in pramfs mount.pramfs umount.pramfs; do
        printf '#!/bin/sh\\necho of the checkout\\n' >/tmp/venv/bin/$name
        chmod +x /tmp/venv/bin/$name
    done
    export PRAMFS_VENV=/tmp/venv
"""


def test_with_the_package_there_install_helpers_refuses_and_changes_nothing(
    machine: Machine,
) -> None:
    told = machine.run(
        HELPERS
        + """
        apt install /tmp/pramfs.deb >/dev/null
        find /usr /etc /sbin/ >/run/before
        ! scripts/install-helpers 2>&1 || fail 'it was not refused'
        find /usr /etc /sbin/ | diff /run/before -
        dpkg --verify pramfs
    """
    )
    assert told == (
        "install-helpers: the Debian package pramfs is installed and has all of this; "
        "to use this checkout instead: apt-get remove pramfs\n"
    )


def test_over_install_helpers_the_package_takes_sbin_and_tells_of_the_rest(
    machine: Machine,
) -> None:
    told = machine.run(
        HELPERS
        + """
        find /usr/local /etc ! -type d >/run/before
        scripts/install-helpers
        apt install /tmp/pramfs.deb
        pramfs
        keep
        umount -v /mnt/keep
        scripts/install-helpers --remove
        hash -r
        pramfs --version
        dpkg --verify pramfs
        find /usr/local /etc ! -type d | diff /run/before - >&2 || fail 'this is left'
    """
    )
    assert "scripts/install-helpers --remove takes it away\n" in told
    assert "of the checkout\n" in told
    assert "saved to /dev/shm/keep.pram" in told
    assert f"\npramfs {__version__}\n" in told
