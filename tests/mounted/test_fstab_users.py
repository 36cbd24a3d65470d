"""fstab's user, users, owner and group: who may mount, with which flags, and who may unmount again."""

import pytest

from tests.mounted.admin_shell import Shell, busy, has_ended, open_to_nobody
from tests.mounted.harness import MOUNT_FAILED, NOBODY, wait_until

ANOTHER = NOBODY - 1
UNKNOWN = 64
SECURE = {"nosuid", "nodev"}
IMPLIED = {
    "user": SECURE | {"noexec"},
    "users": SECURE | {"noexec"},
    "owner": SECURE,
    "group": SECURE,
    "user,exec": SECURE,
    "users,exec,suid,dev": SECURE,  # fusermount3 lets no user have these two
}


class Line:
    """A line of fstab for an image and a mountpoint that belong to the user nobody."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        home = open_to_nobody(shell.home / "user")
        self.image, self.root = home / "image", home / "mnt"
        shell.run("mkdir", self.root, user=NOBODY).succeeded()

    def write(self, words: str) -> None:
        line = f"{self.image} {self.root} pramfs size=16M,noauto,{words} 0 0\n"
        self._shell.fstab.write_text(line)

    def mount(self, user: int = NOBODY) -> None:
        self._shell.run("mount", self.root, user=user).succeeded()
        self._shell.run("touch", self.root / f"of-{user}", user=user).succeeded()

    def flags(self) -> set[str]:
        found = self._shell.run("findmnt", "-n", "-o", "OPTIONS", self.root).succeeded().text
        return (SECURE | {"noexec"}) & set(found.strip().split(","))

    def last_run(self) -> str:
        return self._shell.pramfs("info", self.image).text


@pytest.fixture
def line(shell: Shell) -> Line:
    return Line(shell)


def test_a_user_mounts_with_the_flags_that_are_implied(shell: Shell, line: Line) -> None:
    for words, implied in IMPLIED.items():
        line.write(words)
        line.mount()
        assert line.flags() == implied, words
        assert "saved to" in shell.run("umount", "-v", line.root, user=NOBODY).succeeded().text


@pytest.mark.parametrize("words", ["user", "owner", "group"])
def test_only_who_has_mounted_unmounts_again(shell: Shell, line: Line, words: str) -> None:
    for mounted_by in (NOBODY, 0):
        mount_and_be_refused(shell, line, words, mounted_by)


def mount_and_be_refused(shell: Shell, line: Line, words: str, mounted_by: int) -> None:
    line.write(words)
    line.mount(mounted_by)
    shell.run("umount", line.root, user=ANOTHER).refused(MOUNT_FAILED, "only root", "can unmount")
    assert shell.pramfs_mounts() == [str(line.root)]
    assert "saved to" in shell.run("umount", "-v", line.root, user=mounted_by).succeeded().text


@pytest.mark.parametrize(
    ("program", "mounted_by"), [("umount", NOBODY), ("umount", 0), ("pramfs umount", NOBODY)]
)
def test_with_users_everybody_unmounts(
    shell: Shell, line: Line, program: str, mounted_by: int
) -> None:
    """How it is saved only its owner and root can see, and so that is what the line says."""
    line.write("users")
    line.mount(mounted_by)
    unmount = shell.pramfs if program == "pramfs umount" else shell.run
    told = unmount("umount", line.root, user=ANOTHER)
    told.refused(UNKNOWN, "unmounted", "only root", "can see how it is saved", f"info {line.image}")
    assert not shell.pramfs_mounts()
    wait_until(lambda: "saved at unmount" in line.last_run(), "the save")
    told = shell.pramfs("ls", line.image).succeeded()
    assert f"of-{mounted_by}" in told.text


def test_a_busy_mount_stays_whoever_unmounts_it(shell: Shell, line: Line) -> None:
    line.write("users")
    line.mount()
    with busy(*shell.prefix(NOBODY), path=line.root):
        shell.run("umount", line.root, user=ANOTHER).refused(MOUNT_FAILED, "busy")
        shell.run("umount", "-f", line.root, user=ANOTHER)
        assert shell.pramfs_mounts() == [str(line.root)]
        assert "detached" in shell.run("umount", "-l", line.root, user=ANOTHER).succeeded().err
    wait_until(lambda: "saved at unmount" in line.last_run(), "the save")


def test_whoever_may_ask_the_daemon_waits_for_its_save(shell: Shell, line: Line) -> None:
    line.write("users,allow_other")
    line.mount(0)
    pid = shell.status(line.root)["pid"]
    told = shell.run("umount", line.root, user=ANOTHER)
    told.refused(UNKNOWN, "only root can see how it is saved")
    assert has_ended(pid)
