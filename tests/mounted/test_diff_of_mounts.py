"""`pramfs diff` of a mount: what is in it now is compared, and saved for that."""

import json
import os
import threading
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MOUNT_FAILED, NOBODY, PAGE, Outcome, Volume, pramfs, run
from tests.support.snapshots import take_in

DIFFERS = 1
TROUBLE = 2


@pytest.fixture
def kept(volume: Volume) -> Volume:
    """A volume with a snapshot `before`."""
    root = volume.mount()
    (root / "file").write_bytes(b"f" * 10 * PAGE)
    (root / "folder").mkdir()
    (root / "folder" / "inside").write_text("inside\n")
    volume.umount()
    take_in(volume.image, "before")
    return volume


def diff(*arguments: str | Path, code: int = DIFFERS) -> Outcome:
    outcome = pramfs("diff", *arguments)
    assert outcome.code == code, outcome
    return outcome


def test_what_a_mount_holds_is_saved_and_compared(kept: Volume) -> None:
    root = kept.mount()
    assert diff(root, "before", code=0).out == b""
    with (root / "file").open("r+b") as file:  # open, and not synced
        file.seek(3 * PAGE)
        file.write(b"changed")
        file.flush()
        (root / "folder").rename(root / "renamed")
        generation = kept.generation
        told = diff(root, "before")
    assert told.text.splitlines() == [
        "M file (1 page)",
        "R folder/ -> renamed/",
        "1 renamed, 1 changed, 1 page",
    ]
    assert kept.generation > generation
    assert told.err == f"{root}: saved first, generation {kept.generation}\n"


def test_two_snapshots_of_a_mount_are_compared_without_a_save(kept: Volume) -> None:
    root = kept.mount()
    (root / "new").touch()
    generation = kept.generation
    assert diff(root, "before", "pramfs@before", code=0).err == ""
    assert kept.generation == generation


def test_a_mount_that_is_read_only_is_compared_as_it_is(kept: Volume) -> None:
    root = kept.mount()
    (root / "new").touch()
    root = kept.remount("ro")
    told = diff(root, "before")
    assert (told.text, told.err) == ("A new\n1 added\n", "")


def test_a_snapshot_that_is_mounted_is_what_is_compared(kept: Volume) -> None:
    root = kept.mount()
    (root / "new").touch()
    pramfs("snapshot", root, "after").succeeded()
    (root / "newer").touch()
    root = kept.remount("snapshot=before")
    assert diff(root, "after").text == "D new\n1 deleted\n"
    assert diff(root, "before", code=0).text == ""


def test_what_lacks_data_is_compared_with_a_warning(volume: Volume) -> None:
    """It is in the mount as little as in the save, so what is compared is what the mount shows."""
    volume.size = "16M"
    volume.announce("no space", "save is incomplete")
    root = volume.mount()
    pramfs("snapshot", root, "before").succeeded()
    fill = ("dd", "if=/dev/zero", f"of={root / 'lost'}", "bs=1M", "count=24", "status=none")
    run(*fill, "conv=fsync").refused(1, "No space left")
    for _ in range(2):
        told = diff(root, "before")
        assert told.text == "A lost\n1 added\n"
        warning = f"; what is there is compared, as of generation {volume.generation}\n"
        assert "save is incomplete: not all that was written to /lost was taken" in told.err
        assert told.err.endswith(warning)
        assert len(told.err.splitlines()) == 1
    assert json.loads(diff("--json", root, "before").out)["totals"]["added"] == 1
    (root / "lost").unlink()
    assert "incomplete" not in diff(root, "before", code=0).err
    volume.umount()


def test_a_save_that_fails_is_one_line(volume: Volume) -> None:
    volume.announce("another program has", "save failed")
    volume.damaged = True
    root = volume.mount()
    pramfs("snapshot", root, "before").succeeded()
    (root / "new").touch()
    with volume.image.open("r+b") as image:  # the super block that is not in force
        image.seek((int(volume.status()["pfn"], 16) ^ 1) * PAGE)
        image.write(bytes(PAGE))
    told = diff(root, "before", code=TROUBLE)
    assert (told.text, len(told.err.splitlines())) == ("", 1)
    assert "save failed: another program has" in told.err
    pramfs("umount", root).refused(MOUNT_FAILED, "another program has")
    volume.ended(MOUNT_FAILED)


def test_the_save_is_none_that_keep_keeps(volume: Volume) -> None:
    root = volume.mount("keep=2")
    pramfs("snapshot", root, "before").succeeded()
    names = [one.split()[0] for one in pramfs("snapshots", root).succeeded().text.splitlines()]
    for number in range(3):
        (root / f"{number}").touch()
        assert f"{number + 1} added" in diff(root, "before").text
    assert names == [
        one.split()[0] for one in pramfs("snapshots", root).succeeded().text.splitlines()
    ]
    run("mount", "-i", "-o", "remount,bind,ro", root).succeeded()
    assert "3 added" in diff(root, "before").text
    volume.umount()
    last = pramfs("snapshots", volume.image).succeeded().text.splitlines()[-1]
    assert last.startswith("pramfs@auto-")


def test_an_unknown_snapshot_is_one_line(kept: Volume) -> None:
    root = kept.mount()
    generation = kept.generation
    words = [f"{root}: no snapshot 'after' of tree", "there are: before"]
    for names in (["after"], ["before", "after"], ["after", "before"]):
        diff(root, *names, code=TROUBLE).refused(TROUBLE, *words)
    assert kept.generation == generation  # it is refused before anything is saved


def test_who_may_not_ask_for_a_save_is_told_what_is_not_seen(shell: Shell, root: Path) -> None:
    image = shell.home / "image"
    mount = ("mount", "-o", "size=16M,allow_other", image, root)
    shell.pramfs(*mount).succeeded()
    shell.pramfs("umount", root).succeeded()
    take_in(image, "before")
    image.chmod(0o644)
    shell.pramfs(*mount).succeeded()
    shell.run("touch", root / "saved").succeeded()
    shell.pramfs("save", root).succeeded()
    shell.run("touch", root / "not-saved").succeeded()
    told = shell.pramfs("diff", root, "before", user=NOBODY)
    generation = shell.status(root)["generation"]
    assert (told.code, told.text) == (DIFFERS, "A saved\n1 added\n")
    assert "may ask for a save" in told.err
    assert told.err.endswith(f"what has changed since generation {generation} is not seen\n")


def test_saves_that_are_published_meanwhile_do_not_matter(kept: Volume) -> None:
    """Frames of older saves are used again all the time, and a snapshot stays what it was."""
    root = kept.mount()
    (root / "new").touch()
    kept.save()
    stop = threading.Event()

    def write_and_save() -> None:
        while not stop.is_set():
            (root / "file").write_bytes(os.urandom(10 * PAGE))
            kept.save()

    writer = threading.Thread(target=write_and_save)
    writer.start()
    try:
        for _ in range(8):
            told = pramfs("diff", kept.image, "before")
            if told.code == TROUBLE:
                told.refused(TROUBLE, "a save was published while it was read")
            else:
                assert told.code == DIFFERS
                assert "A new\n" in told.text
    finally:
        stop.set()
        writer.join()
