"""The example that takes a checkpoint of a running mount."""

import sys

from tests.mounted.harness import Volume, pramfs, run
from tests.support.checkout import CHECKOUT


def test_checkpoint_publishes_what_has_changed(volume: Volume) -> None:
    point = volume.mount()
    (point / "file").write_text("kept")
    before = volume.generation
    told = run(sys.executable, CHECKOUT / "examples/checkpoint.py", point).succeeded().text
    assert told.endswith(f"generation {before} -> {before + 1} in {volume.image}\n")
    assert volume.generation == before + 1
    assert pramfs("cat", volume.image, "file").succeeded().text == "kept"


def test_walk_tree_reads_beside_the_mount(volume: Volume) -> None:
    point = volume.mount()
    (point / "file").write_text("kept")
    volume.save()
    (point / "late").touch()
    told = run(sys.executable, CHECKOUT / "examples/walk_tree.py", volume.image).succeeded().text
    assert " /file  " in told
    assert "late" not in told
