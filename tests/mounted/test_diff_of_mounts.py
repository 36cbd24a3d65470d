"""`pramfs diff` of a mount: what is in it now is compared, and saved for that."""

import os
import threading
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell
from tests.mounted.harness import NOBODY, PAGE, Outcome, Volume, pramfs
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
