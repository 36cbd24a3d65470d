"""Where a mount is started: in another's session, an almost empty container, namespaces of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell, has_ended, open_to_nobody
from tests.mounted.harness import MOUNT_FAILED, NOBODY, wait_until
from tests.support.checkout import CHECKOUT, PRAMFS, VENV

# What the directory of a session may be: somebody else's, gone, no directory, one that is not absolute.
SESSIONS = ("/root", "/nonexistent", "/dev/null", "relative", "/proc")


@pytest.mark.parametrize("session", SESSIONS)
def test_the_session_of_somebody_else_is_not_used(shell: Shell, session: str) -> None:
    """fish-shell/fish-shell #2222, containers/common #422: `su` keeps its caller's XDG_RUNTIME_DIR."""
    home = open_to_nobody(shell.home / "user")
    shell.run("mkdir", home / "mnt", user=NOBODY).succeeded()
    caller = Caller(shell, user=NOBODY)
    env = {"XDG_RUNTIME_DIR": session}
    caller.run("mount", "-o", "size=16M", home / "image", home / "mnt", env=env).succeeded()
    assert f"/tmp/pramfs-{NOBODY}/" in caller.run("status", home / "mnt").succeeded().text
    caller.run("save", home / "mnt").succeeded()
    caller.run("umount", home / "mnt", env=env).succeeded()
    told = caller.run("info", home / "image").succeeded().text  # without that environment
    assert "last run:" in told
    assert "saved at unmount" in told


@pytest.fixture
def nowhere(shell: Shell) -> Iterator[None]:
    """Let there be no directory for logs and states."""
    in_tmp = Path(f"/tmp/pramfs-{os.geteuid()}")
    made = not in_tmp.exists()
    in_tmp.mkdir(exist_ok=True)
    for place in ("/run", "/dev/shm", in_tmp):
        shell.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place).succeeded()
    yield
    if made:
        in_tmp.rmdir()


@pytest.mark.usefixtures("nowhere")
def test_a_mount_needs_no_run_directory(shell: Shell, root: Path, image: Path) -> None:
    """juicedata/juicefs #6988: in a container there may be no place for what others are told."""
    told = shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    assert "no log and no state is left for others" in told.err
    shell.run("touch", root / "file").succeeded()
    shell.pramfs("save", root).succeeded()
    assert "saved to" in shell.pramfs("umount", root).succeeded().text
    assert "file" in shell.pramfs("ls", image).succeeded().text


class Container:
    """A root directory that holds programs, Python and pramfs, and else only what a test puts there."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.root = shell.home / "container"
        self.image, self.mountpoint = Path("/image"), Path("/mnt")
        for directory in {"/usr", sys.base_prefix, str(CHECKOUT), str(VENV)}:
            self.mount("--bind", directory, directory)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        self.mkdir("/mnt")

    def mkdir(self, path: str) -> Path:
        directory = self.root / Path(path).relative_to("/")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def mount(self, how: str, source: str, path: str) -> None:
        self._shell.run("mount", how, source, self.mkdir(path)).succeeded()

    def make_devices(self, *names: str) -> None:
        numbers = {"fuse": (10, 229), "null": (1, 3)}
        directory = self.mkdir("/dev")
        self.mount("-ttmpfs", "tmpfs", "/dev")
        for name in names:
            major, minor = numbers[name]
            self._shell.run("mknod", "-m", "666", directory / name, "c", str(major), str(minor))
        self._shell.run("mount", "-o", "remount,ro", directory).succeeded()

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["chroot", self.root, PRAMFS, *words]


@pytest.fixture
def container(shell: Shell) -> Container:
    return Container(shell)


@pytest.mark.parametrize("devices", [("fuse", "null"), ("fuse",)], ids=str)
def test_a_container_with_next_to_nothing_will_do(
    shell: Shell, container: Container, devices: tuple[str, ...]
) -> None:
    """juicedata/juicefs #6988, NixOS/nixpkgs #21748: no /run, /tmp, /etc or /sys, a bare /dev."""
    container.mount("--rbind", "/proc", "/proc")
    container.make_devices(*devices)
    image, root = container.image, container.mountpoint
    shell.run(*container.command("mount", "-o", "size=16M", image, root)).succeeded()
    shell.run("touch", container.root / "mnt/file").succeeded()
    shell.run(*container.command("save", root)).succeeded()
    shell.run(*container.command("status", root)).succeeded()
    told = shell.run(*container.command("umount", root)).succeeded()
    assert "unmounted; saved to /image" in told.text
    assert "file" in shell.pramfs("ls", container.root / "image").succeeded().text


@pytest.mark.parametrize("missing", ["/proc", "/dev/fuse"])
def test_what_a_mount_cannot_do_without_is_named(
    shell: Shell, container: Container, missing: str
) -> None:
    """juicedata/juicefs #6988: without these two there is no FUSE, and a line says so."""
    if missing != "/proc":
        container.mount("--rbind", "/proc", "/proc")
        container.make_devices("null")
    outcome = shell.run(*container.command("mount", "-o", "size=16M", container.image, "/mnt"))
    assert outcome.code in (2, 32)
    assert "Traceback" not in outcome.err
    assert missing in outcome.err or "fuse: device not found" in outcome.err
    assert not (container.root / "image").exists()


# A whole life, by programs of one kind; $1 is the directory, and $2 the program.
LIFE = """
set -e
cd "$1"
mkdir mnt
"$2" mount -o size=16M image mnt
echo kept > mnt/file
"$2" save mnt
"$2" status mnt
"$2" umount mnt
"$2" info image
"""


def test_a_user_namespace_is_enough(shell: Shell) -> None:
    """containers/podman #1091, juicedata/juicefs #6988: `unshare -Urm`, with a root that is none outside."""
    home = open_to_nobody(shell.home / "user")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", LIFE, "sh"]
    told = shell.run(*unshare, home, PRAMFS, user=NOBODY).succeeded()
    assert "saved at unmount" in told.text
    assert shell.pramfs("cat", home / "image", "file").succeeded().out == b"kept\n"


@pytest.mark.parametrize("proc", [(), ("--mount-proc",)], ids=["proc of others", "proc of its own"])
def test_a_pid_namespace_has_pids_of_its_own(shell: Shell, proc: tuple[str, ...]) -> None:
    """juicedata/juicefs #6988: what a process calls itself there, /proc may know by another number."""
    unshare = ["unshare", "--pid", "--fork", *proc, "sh", "-c", LIFE, "sh"]
    told = shell.run(*unshare, shell.home, PRAMFS).succeeded()
    assert "saved at unmount" in told.text
    assert shell.pramfs("cat", shell.home / "image", "file").succeeded().out == b"kept\n"


def test_a_mount_that_another_file_system_covers_is_said_to_be_covered(
    shell: Shell, root: Path
) -> None:
    """It was said to lie in the one that is mounted at the very same path."""
    shell.pramfs("mount", "-o", "size=16M", shell.home / "image", root).succeeded()
    shell.run("mount", "-t", "tmpfs", "none", root).succeeded()
    for command in ("status", "save", "umount"):
        shell.pramfs(command, root).refused(
            MOUNT_FAILED, "no pramfs is mounted there: another file system is mounted over one"
        )
    shell.run("umount", "-i", root).succeeded()
    assert "saved to" in shell.pramfs("umount", root).succeeded().text


_WITHOUT_PROC = """
"$0" mount -o size=16M "$1" "$2"
pid=$("$0" status --json "$2" | sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')
echo $pid
printf kept >"$2/file"
umount -l /proc
if [ "$3" = kill ]; then kill $pid; else exec "$4" -c "$5" "$2"; fi  # umount(8) needs it, too
"""
_UMOUNT = "import ctypes, sys; sys.exit(ctypes.CDLL(None).umount2(sys.argv[1].encode(), 0))"


@pytest.mark.parametrize("way", ["umount", "kill"])
def test_a_daemon_saves_though_proc_is_gone(shell: Shell, root: Path, way: str) -> None:
    """As in a container that is taken down: it ended with a traceback that nobody saw, and saved nothing."""
    image = shell.home / "image"
    private = ("unshare", "--mount", "--propagation", "private")
    script = ("sh", "-c", _WITHOUT_PROC, PRAMFS, image, root, way, sys.executable, _UMOUNT)
    ended = shell.run(*private, *script).succeeded()
    wait_until(lambda: has_ended(int(ended.text)), "the daemon to end")
    assert "without a final save" not in shell.pramfs("info", image).succeeded().text
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"
