"""An image that is removed, renamed or replaced under its mount: nothing claims to be saved in it.

systemd/systemd #4532, Unidata/LDM #62: with RemoveIPC=yes logind deletes a user's shared memory at logout,
whoever still has it open: PostgreSQL died, LDM lost its queue.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import MOUNT_FAILED, Volume, detach, pramfs, run, umount_helper
from tests.support.checkout import PRAMFS

WRONG_PLACE = "save is not in"


def remove(image: Path) -> str:
    image.unlink()
    return "has been removed"


def rename(image: Path) -> str:
    image.rename(image.with_name("renamed"))
    return f"is called {image.with_name('renamed')} now"


def replace(image: Path) -> str:
    image.with_name("other").write_bytes(b"something else")
    image.with_name("other").replace(image)
    return "has been removed"


def replace_by_another(image: Path) -> str:
    what = rename(image)
    run("sh", "-c", f"echo other | {PRAMFS} put '{image}' node").succeeded()
    return what


def remove_one_of_two_names(image: Path) -> str:
    image.with_name("other").hardlink_to(image)
    image.unlink()
    return "only other names"


def rename_the_directory(image: Path) -> str:
    image.parent.rename(image.parent.with_name("moved"))
    image.parent.mkdir()
    return f"is called {image.parent.with_name('moved') / image.name} now"


def link_to_it(image: Path) -> None:
    rename(image)
    image.symlink_to("renamed")


def link_to_it_by_its_whole_path(image: Path) -> None:
    rename(image)
    image.symlink_to(image.with_name("renamed"))


def link_to_it_by_another_link(image: Path) -> None:
    link_to_it(image)
    image.rename(image.with_name("second"))
    image.symlink_to("../images/./second")


def hard_link_to_it(image: Path) -> None:
    rename(image)
    image.hardlink_to(image.with_name("renamed"))


def link_to_its_directory(image: Path) -> None:
    image.parent.rename(image.parent.with_name("moved"))
    image.parent.symlink_to("moved")


def link_to_where_its_directory_lies(image: Path) -> None:
    image.parent.parent.rename(image.parent.parent.with_name("away"))
    image.parent.parent.symlink_to("away")


LED_TO = [
    link_to_it,
    link_to_it_by_its_whole_path,
    link_to_it_by_another_link,
    hard_link_to_it,
    link_to_its_directory,
    link_to_where_its_directory_lies,
]


def link_to_a_copy(image: Path) -> str:
    image.with_name("copy").write_bytes(image.read_bytes())
    what = rename(image)
    image.symlink_to("copy")
    return what


def link_to_itself(image: Path) -> str:
    what = rename(image)
    image.symlink_to(image.name)
    return what


def link_to_nothing(image: Path) -> str:
    what = rename(image)
    image.symlink_to("nothing")
    return what


LED_ELSEWHERE = [link_to_a_copy, link_to_itself, link_to_nothing]
WAYS = [remove, rename, replace, remove_one_of_two_names, rename_the_directory]


@pytest.fixture
def elsewhere(volume: Volume) -> Volume:
    """A volume whose image lies in a directory of its own."""
    (volume.home / "images").mkdir()
    volume.image = volume.home / "images" / "image"
    volume.damaged = True  # there is no image to check any more
    volume.announce(WRONG_PLACE)
    return volume


@pytest.mark.parametrize("lose", [*WAYS, *LED_ELSEWHERE])
def test_every_verdict_says_that_the_save_is_not_there(
    elsewhere: Volume, lose: Callable[[Path], str]
) -> None:
    root = elsewhere.mount()
    (root / "file").write_bytes(b"kept")
    what = lose(elsewhere.image)
    assert what in pramfs("status", root).succeeded().text
    words = [WRONG_PLACE, str(elsewhere.image), what]
    pramfs("save", root).refused(MOUNT_FAILED, *words)
    with pytest.raises(OSError, match="Input/output error"):
        os.fsync(descriptor := os.open(root, os.O_RDONLY))
    os.close(descriptor)
    outcome = pramfs("umount", root).refused(MOUNT_FAILED, *words)
    assert "saved to" not in outcome.err
    elsewhere.ended(MOUNT_FAILED)
    assert "saved: generation" not in elsewhere.log


@pytest.mark.parametrize("move", LED_TO)
def test_what_the_name_leads_to_is_the_image(volume: Volume, move: Callable[[Path], None]) -> None:
    """Whoever reads the name reads the save."""
    volume.image = volume.home / "place" / "images" / "image"
    volume.image.parent.mkdir(parents=True)
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    move(volume.image)
    assert not volume.status()["error"]
    pramfs("info", root).succeeded()
    pramfs("save", root).succeeded()
    told = pramfs("umount", root).succeeded().text
    assert f"saved to {volume.image}, generation" in told
    volume.ended()
    assert pramfs("cat", volume.image, "file").succeeded().out == b"kept"


@pytest.mark.parametrize("way", ["at the image", "at its directory", "above it"])
def test_a_name_that_leads_into_the_mount_itself_is_not_waited_for(
    elsewhere: Volume, way: str
) -> None:
    """trapexit/mergerfs #1319: a daemon that looks into its own mount waits for ever."""
    root = elsewhere.mount()
    image = elsewhere.image
    (root / "images").mkdir()
    (root / "images" / "image").write_bytes(b"another one")
    what = rename(image) if way == "at the image" else rename_the_directory(image)
    if way == "at the image":
        image.symlink_to(root / "images" / "image")
    elif way == "at its directory":
        image.parent.rmdir()
        image.parent.symlink_to(root / "images")
    else:
        (image.parent / "image").symlink_to(
            Path("..", root.relative_to(elsewhere.home), "images/image")
        )
    assert what in elsewhere.status()["error"]
    pramfs("umount", root).refused(MOUNT_FAILED, WRONG_PLACE, what)
    elsewhere.ended(MOUNT_FAILED)


@pytest.mark.parametrize("lose", [rename, rename_the_directory, replace_by_another])
def test_info_and_map_of_the_mount_are_of_the_image_by_its_present_name(
    elsewhere: Volume, lose: Callable[[Path], str]
) -> None:
    """Not of another one that has its name now."""
    root = elsewhere.mount()
    (root / "file").write_bytes(b"kept")
    elsewhere.announce("is called")
    pramfs("save", root).succeeded()
    uuid = elsewhere.info()["uuid"]
    what = lose(elsewhere.image)
    now = what.split()[2]
    told = elsewhere.info(root)
    assert (told["image"], told["uuid"]) == (now, uuid)
    assert what in told["mount"]["error"]
    text = pramfs("info", root).succeeded().text
    assert f"image:       {now}\n" in text
    assert f"errors:      {WRONG_PLACE} {elsewhere.image}: the file {what}\n" in text
    assert f"has it mounted at {root}" in pramfs("info", now).succeeded().text
    pramfs("map", root).succeeded()
    pramfs("umount", root).refused(MOUNT_FAILED, WRONG_PLACE, what)
    elsewhere.ended(MOUNT_FAILED)


@pytest.mark.parametrize("command", ["info", "map"])
def test_what_a_mount_of_a_removed_image_is_asked_says_so(elsewhere: Volume, command: str) -> None:
    root = elsewhere.mount()
    what = remove(elsewhere.image)
    pramfs(command, root).refused(MOUNT_FAILED, str(root), WRONG_PLACE, what)
    pramfs("umount", root).refused(MOUNT_FAILED, WRONG_PLACE, what)
    elsewhere.ended(MOUNT_FAILED)


def test_what_was_renamed_holds_the_save(elsewhere: Volume) -> None:
    root = elsewhere.mount()
    (root / "file").write_bytes(b"kept")
    rename(elsewhere.image)
    os.kill(elsewhere.pid, signal.SIGTERM)
    elsewhere.ended(MOUNT_FAILED)
    assert WRONG_PLACE in elsewhere.log
    told = pramfs("cat", elsewhere.image.with_name("renamed"), "file").succeeded()
    assert told.out == b"kept"


def test_a_name_that_is_back_is_good_again(elsewhere: Volume) -> None:
    root = elsewhere.mount()
    rename(elsewhere.image)
    pramfs("save", root).refused(MOUNT_FAILED, WRONG_PLACE)
    elsewhere.image.with_name("renamed").rename(elsewhere.image)
    elsewhere.save()
    assert not elsewhere.status()["error"]
    elsewhere.umount()
    elsewhere.check()


def test_a_file_system_that_was_unmounted_lazily(elsewhere: Volume) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", elsewhere.image.parent).succeeded()
    root = elsewhere.mount()
    run("umount", "-l", elsewhere.image.parent).succeeded()
    words = [WRONG_PLACE, str(elsewhere.image), "file system has been unmounted"]
    assert words[-1] in elsewhere.status()["error"]
    pramfs("save", root).refused(MOUNT_FAILED, *words)
    pramfs("umount", root).refused(MOUNT_FAILED, *words)
    elsewhere.ended(MOUNT_FAILED)


def test_a_mount_over_the_directory_hides_the_image(elsewhere: Volume) -> None:
    root = elsewhere.mount()
    run("mount", "-t", "tmpfs", "tmpfs", elsewhere.image.parent).succeeded()
    pramfs("save", root).refused(
        MOUNT_FAILED, WRONG_PLACE, "another file system is mounted over it"
    )
    assert "mounted over it" in elsewhere.status()["error"]
    run("umount", elsewhere.image.parent).succeeded()
    elsewhere.save()
    run("mount", "--bind", elsewhere.image.parent, elsewhere.image.parent).succeeded()
    elsewhere.save()  # the same under another mount
    run("umount", elsewhere.image.parent).succeeded()
    elsewhere.umount()


@pytest.mark.parametrize("lose", [remove, replace])
def test_a_save_to_a_new_image_keeps_everything(
    elsewhere: Volume, lose: Callable[[Path], str]
) -> None:
    root = elsewhere.mount()
    (root / "file").write_bytes(b"kept")
    lose(elsewhere.image)
    pramfs("save", root).refused(MOUNT_FAILED, WRONG_PLACE)
    elsewhere.image = elsewhere.home / "rescued"
    pramfs("save", "--to", elsewhere.image, root).succeeded()
    assert not elsewhere.status()["error"]
    elsewhere.damaged = False
    elsewhere.remount()
    assert (root / "file").read_bytes() == b"kept"


def test_a_read_only_mount_has_nothing_to_say(elsewhere: Volume) -> None:
    elsewhere.mount()
    elsewhere.umount()
    elsewhere.mount("ro")
    remove(elsewhere.image)
    elsewhere.umount()


def test_checkpoints_say_it_in_the_log_once(elsewhere: Volume) -> None:
    root = elsewhere.mount("checkpoint=1")
    remove(elsewhere.image)
    for number in range(2):
        generation = elsewhere.generation
        (root / f"file {number}").touch()
        while elsewhere.generation == generation:
            pass
    os.kill(elsewhere.pid, signal.SIGTERM)
    elsewhere.ended(MOUNT_FAILED)
    assert elsewhere.log.count(WRONG_PLACE) == 2  # by a checkpoint, and at the end


def test_an_image_below_the_mountpoint_is_still_there(volume: Volume) -> None:
    """Mounted over its own directory, which then hides it: that is no loss."""
    volume.image = volume.root / "image"
    volume.mount()
    volume.save()
    assert not volume.status()["error"]
    volume.umount()


@pytest.mark.parametrize("inside", ["nothing of that name", "a file of that name"])
def test_commands_find_an_image_below_the_mountpoint(volume: Volume, inside: str) -> None:
    volume.image = volume.root / "image"
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    if inside == "a file of that name":
        (root / "image").write_bytes(b"of the mount")
    pramfs("snapshot", root, "one").succeeded()
    told = volume.info(root)
    assert told["image"] == str(volume.image)
    assert told["generation"] == volume.generation
    assert "pramfs@one" in pramfs("snapshots", root).succeeded().text
    for words in (("map", root), ("diff", root, "one")):
        pramfs(*words).succeeded()
    pramfs("send", root).succeeded()
    stream = pramfs("send", f"{root}@one").succeeded().out
    pramfs("receive", "--as", "@two", root, stdin=stream).succeeded()
    pramfs("free", root, "pramfs@one").succeeded()
    volume.umount()


def test_a_removed_image_is_told_when_the_daemon_is_dead(elsewhere: Volume) -> None:
    root = elsewhere.mount()
    (root / "file").write_bytes(b"lost")
    remove(elsewhere.image)
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.daemon.wait()
    outcome = pramfs("umount", root).refused(
        MOUNT_FAILED, "the daemon was dead", "no save is to be"
    )
    assert "stands" not in outcome.err
    elsewhere.ended(-signal.SIGKILL)


def test_an_image_that_has_taken_the_name_is_not_what_stands(elsewhere: Volume) -> None:
    root = elsewhere.mount()
    replace_by_another(elsewhere.image)
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.daemon.wait()
    outcome = pramfs("umount", root).refused(MOUNT_FAILED, "dead", "perhaps of another image")
    assert "stands" not in outcome.err
    elsewhere.ended(-signal.SIGKILL)


@pytest.mark.parametrize("flag", ["-l", "-f"])
def test_a_removed_image_is_told_by_an_unmount_that_does_not_wait(
    elsewhere: Volume, flag: str
) -> None:
    if flag == "-f":  # in use, so it is a dead mount then
        elsewhere.announce("cut off by force")
    root = elsewhere.mount()
    descriptor = os.open(root, os.O_RDONLY)
    remove(elsewhere.image)
    words = [WRONG_PLACE, str(elsewhere.image), "removed"]
    outcome = umount_helper(root, flag).refused(MOUNT_FAILED, *words)
    assert "the last save" not in outcome.err
    os.close(descriptor)
    if flag == "-f":
        detach(root)
    elsewhere.ended(MOUNT_FAILED)


@pytest.mark.parametrize("way", WAYS)
def test_a_snapshot_is_not_said_to_be_freed_or_taken_there(
    elsewhere: Volume, way: Callable[[Path], str]
) -> None:
    root = elsewhere.mount()
    pramfs("snapshot", root, "one").succeeded()
    words = [WRONG_PLACE, str(elsewhere.image), way(elsewhere.image)]
    assert "freed" not in pramfs("free", root, "pramfs@one").refused(MOUNT_FAILED, *words).text
    assert "generation" not in pramfs("snapshot", root, "two").refused(MOUNT_FAILED, *words).text
    pramfs("umount", root).refused(MOUNT_FAILED, *words)
    elsewhere.ended(MOUNT_FAILED)
