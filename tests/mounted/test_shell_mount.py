"""mount(8), fstab and the system's own tools on a pramfs: as on any other file system."""

import os
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell, has_ended, open_to_nobody, version
from tests.mounted.harness import MOUNT_FAILED, NOBODY, USAGE, run
from tests.support.checkout import CHECKOUT, VENV


@pytest.mark.parametrize("kind", ["pramfs", "fuse.pramfs"])
def test_mount_8_mounts_with_the_options_of_the_seeds(
    shell: Shell, root: Path, image: Path, kind: str
) -> None:
    shell.run("mount", "-t", kind, image, root, "-o", "size=64M,banned=0-1M,4M-5M").succeeded()
    status = shell.status(root)
    assert "banned=0-1M:4M-5M" in status["options"]
    # Super blocks that lie in frames that are banned now stay until the next save.
    assert 450 < status["frames"]["banned"] <= 512 < status["frames"]["total"] == 16384
    found = shell.run("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", root).succeeded().text.split()
    assert found[:2] == [str(image), "fuse.pramfs"]
    assert {"rw", "nosuid", "nodev", "default_permissions"} <= set(found[2].split(","))
    assert shell.run("mountpoint", root).code == 0
    sizes = shell.run("df", "--output=source,size,target", "-B1M", root).succeeded().text.split()
    assert sizes[-3::2] == [str(image), str(root)]
    assert 60 <= int(sizes[-2]) <= 64
    shell.run("umount", root).succeeded()
    assert shell.run("mountpoint", "-q", root).code


@pytest.mark.parametrize(
    ("command", "words", "taken"),
    [
        (["mount", "-t", "pramfs"], "suid,dev", version("mount") >= (2, 39)),
        (["mount", "-t", "pramfs"], "user,suid,dev,exec", True),
        ([VENV / "bin/pramfs", "mount"], "suid,dev", True),
    ],
    ids=["mount suid,dev", "mount user,suid,dev,exec", "pramfs mount suid,dev"],
)
def test_suid_and_dev_take_hold_where_mount_8_passes_them_on(
    shell: Shell, root: Path, image: Path, command: list[str | Path], words: str, taken: bool
) -> None:
    """As docs/limits.md has it."""
    shell.run(*command, "-o", f"size=16M,{words}", image, root).succeeded()
    options = shell.run("findmnt", "-n", "-o", "OPTIONS", root).succeeded().text.strip().split(",")
    assert {"nosuid", "nodev"} & set(options) == (set() if taken else {"nosuid", "nodev"})
    assert "noexec" not in options


def test_mount_by_fstab(shell: Shell, root: Path, image: Path) -> None:
    options = "size=64M,banned=0-1M,noauto,nofail,noatime,x-systemd.mount-timeout=15min"
    shell.fstab.write_text(f"{image} {root} pramfs {options} 0 0\n")
    shell.run("mount", root).succeeded()
    assert 200 < shell.status(root)["frames"]["banned"] <= 256
    assert "noatime" in shell.run("findmnt", "-n", "-o", "OPTIONS", root).text
    shell.run("mount", "-o", "remount,ro", root).succeeded()
    assert shell.run("touch", root / "new").code
    shell.run("mount", "-o", "remount,rw", root).succeeded()
    shell.run("touch", root / "new").succeeded()
    shell.run("umount", root).succeeded()


def test_mount_a_mounts_once(shell: Shell, root: Path, image: Path) -> None:
    shell.fstab.write_text(f"{image} {root} pramfs size=16M 0 0\n")
    for _ in range(2):
        shell.run("mount", "-a").succeeded()
        assert shell.pramfs_mounts() == [str(root)]


def test_a_read_only_remount_publishes(shell: Shell, root: Path, image: Path) -> None:
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.path(root / "file").write_bytes(b"kept")
    before = shell.status(root)["generation"]
    shell.run("mount", "-o", "remount,ro", root).succeeded()
    after = shell.status(root)
    assert after["generation"] > before
    assert not after["changed"]
    shell.pramfs("save", root).succeeded()
    assert "saved to" in shell.run("umount", "-v", root).succeeded().text


def test_what_a_remount_cannot_do_is_refused(shell: Shell, root: Path, image: Path) -> None:
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    outcome = shell.run("mount", "-o", "remount,size=32M", root)
    outcome.refused(MOUNT_FAILED, "remount", "size=32M", "unmount and mount again")
    shell.run("umount", root).succeeded()
    shell.run("mount", "-t", "pramfs", "-o", "ro", image, root).succeeded()
    outcome = shell.run("mount", "-o", "remount,rw", root)
    outcome.refused(MOUNT_FAILED, "read-only", "unmount and mount again")
    assert "nothing to save" in shell.run("umount", "-v", root).succeeded().text


def test_wrong_words_are_refused_and_forgiven_with_s(shell: Shell, root: Path, image: Path) -> None:
    outcome = shell.run("mount", "-t", "pramfs", "-o", "bannned=0-1M,size=16M", image, root)
    outcome.refused(USAGE, "bannned", "did you mean 'banned'")
    shell.run("mount", "-s", "-t", "pramfs", "-o", "bannned=0-1M,size=16M", image, root).succeeded()
    assert shell.status(root)["frames"]["banned"] == 0


@pytest.mark.parametrize(
    "words",
    ["silent", "loud", "mand,iversion,lazytime,strictatime", "nomand,noiversion,nolazytime,nostrictatime"],
)  # fmt: skip
def test_what_mount_8_takes_for_a_tmpfs_changes_nothing_here(
    shell: Shell, root: Path, image: Path, words: str
) -> None:
    def options() -> str:
        return shell.run("findmnt", "-n", "-o", "OPTIONS", root).succeeded().text

    shell.run("mount", "-t", "tmpfs", "-o", f"size=16M,{words}", "tmpfs", root).succeeded()
    shell.run("umount", root).succeeded()
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    before = options()
    shell.run("mount", "-o", f"remount,{words}", root).succeeded()
    assert options() == before
    shell.run("umount", root).succeeded()
    shell.run("mount", "-t", "pramfs", "-o", f"size=16M,{words}", image, root).succeeded()
    assert options() == before


def test_a_fake_mount_checks_the_options_and_mounts_nothing(
    shell: Shell, root: Path, image: Path
) -> None:
    shell.run("/sbin/mount.pramfs", image, root, "-f", "-o", "size=16M").succeeded()
    assert not shell.pramfs_mounts()
    assert not image.exists()
    shell.run("/sbin/mount.pramfs", image, root, "-f", "-o", "siez=16M").refused(USAGE, "siez")


def test_another_mount_namespace_is_refused(shell: Shell, root: Path, image: Path) -> None:
    outcome = shell.run("mount", "-N", "/proc/self/ns/mnt", "-t", "pramfs", image, root)
    outcome.refused(USAGE, "nsenter")


@pytest.mark.parametrize("helper", ["/sbin/mount.pramfs", "/sbin/umount.fuse.pramfs"])
def test_helpers_tell_how_they_are_called(shell: Shell, helper: str) -> None:
    shell.run(helper).refused(USAGE, "mount(8)")


def test_a_user_mounts_by_fstab_and_unmounts(shell: Shell) -> None:
    home = open_to_nobody(shell.home / "user")
    root = home / "mnt"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    shell.fstab.write_text(f"{home}/image {root} pramfs size=16M,noauto,user 0 0\n")
    shell.run("mount", root, user=NOBODY).succeeded()
    pid = int(shell.run("stat", "-c", "%u", root, user=NOBODY).succeeded().text)
    assert pid == NOBODY
    status = shell.pramfs("status", root, user=NOBODY).succeeded().text
    assert f"{home}/image" in status
    assert "saved to" in shell.run("umount", "-v", root, user=NOBODY).succeeded().text


def test_a_user_mounts_without_root_and_root_may_save_and_unmount(shell: Shell) -> None:
    """No `user_allow_other` is needed. Root cannot look into it, and still its umount waits."""
    home = open_to_nobody(shell.home / "user")
    root = home / "mnt"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    shell.pramfs("mount", "-o", "size=16M", home / "image", root, user=NOBODY).succeeded()
    shell.run("touch", root / "file", user=NOBODY).succeeded()
    pid = shell.status(root)["pid"]
    assert shell.run("touch", root / "file2").code, "FUSE lets root in after all"
    assert "generation 3" in shell.pramfs("save", root).succeeded().text
    assert "saved to" in shell.run("umount", "-v", "-c", root).succeeded().text
    assert has_ended(pid)
    shell.pramfs("mount", home / "image", root, user=NOBODY).succeeded()
    shell.run("test", "-e", root / "file", user=NOBODY).succeeded()
    assert "saved to" in shell.pramfs("umount", root, user=NOBODY).succeeded().text


def test_allow_other_of_a_user_is_the_systems_decision(shell: Shell) -> None:
    home = open_to_nobody(shell.home / "user")
    shell.run("mkdir", home / "mnt", user=NOBODY).succeeded()
    words = ["mount", "-o", "size=16M,allow_other", str(home / "image"), str(home / "mnt")]
    outcome = shell.pramfs(*words, user=NOBODY)
    assert outcome.code == MOUNT_FAILED
    assert "user_allow_other" in outcome.err


@pytest.mark.parametrize(
    "name", ["a b", "a,b", "a\\b", "a\nb", "a\tb", "ä€𝄞", "a\\040b", "-x", "a#b", "a=b,c"], ids=repr
)
def test_names_that_tables_must_escape(shell: Shell, name: str) -> None:
    (shell.home / name).mkdir()
    root, image = shell.home / name / "mnt", shell.home / name / f"{name}.image"
    root.mkdir()
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    status = shell.status(root)
    assert (status["image"], status["mountpoint"]) == (str(image), str(root))
    shell.path(root / name).write_bytes(name.encode())
    shell.pramfs("save", root).succeeded()
    shell.pramfs("info", root).succeeded()
    assert "saved to" in shell.run("umount", "-v", root).succeeded().text
    assert not shell.pramfs_mounts()
    assert "saved at unmount" in shell.pramfs("info", image).succeeded().text


def test_relative_and_symlinked_paths(shell: Shell, root: Path, image: Path) -> None:
    (shell.home / "link").symlink_to(root)
    (shell.home / "image-link").symlink_to(image)
    for where in ("mnt", "./mnt/../mnt", "link"):
        shell.pramfs(
            "mount", "-o", "size=16M", "image-link" if image.exists() else image, where
        ).succeeded()
        assert shell.status(Path(where))["image"] == str(image)
        shell.pramfs("save", where).succeeded()
        assert "saved to" in shell.pramfs("umount", where).succeeded().text


def test_a_path_inside_the_mount_is_no_mountpoint(shell: Shell, root: Path, image: Path) -> None:
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.path(root / "directory").mkdir()
    for command in ("umount", "save", "status"):
        outcome = shell.pramfs(command, root / "directory")
        outcome.refused(MOUNT_FAILED, "no pramfs is mounted there", f"mounted at {root}")
    assert shell.pramfs_mounts() == [str(root)]


@pytest.mark.parametrize("options", ["", ",allow_other"])
def test_another_user_is_told_what_was_not_done_and_who_can(
    shell: Shell, root: Path, image: Path, options: str
) -> None:
    shell.home.chmod(0o755)
    shell.pramfs("mount", "-o", f"size=16M,mode=755{options}", image, root).succeeded()
    generation = shell.status(root)["generation"]
    words = ["only root", "run this with their rights"]
    told = shell.pramfs("save", root, user=NOBODY)
    told.refused(MOUNT_FAILED, f"{root}: not saved:", "may ask for a save", *words)
    told = shell.pramfs("umount", root, user=NOBODY)
    told.refused(MOUNT_FAILED, f"{root}: still mounted:", "can unmount it", *words)
    for command in ("status", "info", "map"):
        told = shell.pramfs(command, root, user=NOBODY)
        if not options:
            told.refused(MOUNT_FAILED, f"{root}: unknown what is saved:", *words)
    refusals = {
        "dedup": f"{root}: not deduplicated:" if not options else "may ask it to deduplicate",
        "snapshots": f"{root}: not listed:" if not options else f"{image}: cannot open the image",
    }
    for command, refusal in refusals.items():
        shell.pramfs(command, root, user=NOBODY).refused(MOUNT_FAILED, refusal)
    told = shell.pramfs("diff", root, "none", user=NOBODY)
    told.refused(2, f"{root}: not compared:" if not options else f"{image}: cannot open the image")
    if options:
        told = shell.pramfs("save", "--to", "/tmp/not-made", root, user=NOBODY)
        told.refused(MOUNT_FAILED, f"{root}: not saved:", *words)
    told = shell.pramfs("send", f"{root}@none", user=NOBODY)
    told.refused(MOUNT_FAILED, f"{root}: not sent:" if not options else "cannot open the image")
    assert shell.status(root)["generation"] == generation
    assert shell.pramfs_mounts() == [str(root)]
    if not options:
        line = shell.pramfs("status", user=NOBODY).succeeded().text
        assert line.startswith(f"{root}: unknown what is saved: only root may ask")


def links(process: Path) -> list[Path]:
    return [process / "cwd", *(process / "fd").iterdir()]


def test_a_daemon_takes_nothing_of_its_caller_along(shell: Shell, root: Path, image: Path) -> None:
    """No descriptor, directory or umask. `run` ends because the daemon has let go of descriptor 7."""
    script = 'umask 0777; cd sub; exec 7>&1; exec "$@"'
    (shell.home / "sub").mkdir()
    shell.run(
        "sh", "-c", script, "sh", VENV / "bin/pramfs", "mount", "-o", "size=16M", image, root,
        env={"NOTIFY_SOCKET": str(shell.home / "nobody-listens")},
    ).succeeded()  # fmt: skip
    process = Path(f"/proc/{shell.status(root)['pid']}")
    assert not any(os.readlink(link).startswith(str(shell.home / "sub")) for link in links(process))
    (shell.home / "sub").rmdir()
    shell.path(root / "file").touch()
    shell.run("umount", root).succeeded()
    assert image.stat().st_mode & 0o777 == 0o600


def test_install_helpers_leaves_alone_what_is_not_its_own(tmp_path: Path) -> None:
    program = CHECKOUT / "scripts/install-helpers"
    env = {"DESTDIR": str(tmp_path), "PRAMFS_VENV": str(VENV)}
    run(program, env=env).succeeded()
    run(program, env=env).succeeded()
    assert len(list((tmp_path / "sbin").iterdir())) == 4
    (tmp_path / "sbin/umount.pramfs").unlink()
    (tmp_path / "sbin/umount.pramfs").write_text("somebody else's")
    assert "is not a link to pramfs" in run(program, env=env).err
    run(program, "--remove", env=env).succeeded()
    assert [path.name for path in (tmp_path / "sbin").iterdir()] == ["umount.pramfs"]
