"""Many snapshots, through every command that meets them: 300, and 10,000 in the long form."""

import json
import os
import stat
from pathlib import Path

from pramfs.errors import DIFF_FOUND
from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import require_new
from pramfs.tree.tree import Owner, Tree
from tests.mounted.harness import MOUNT_FAILED, Volume, pramfs

OWNER = Owner(0, 0)
FRAMES_EACH = 16


def numbered(number: int) -> bytes:
    return number.to_bytes(4, "little") + b"the same in all" * 1000


def take_many(path: Path, count: int) -> None:
    """Make an image with the snapshots s0, s1 and so on: in each, a file tells which it is."""
    with Pram.create(path, FRAMES_EACH * count + 4096) as pram:
        tree = Tree(pram.arena, inodes_max=100, generation=1)
        tree.make_root(0o755, OWNER)
        file = tree.file(tree.create(tree.root, b"file", stat.S_IFREG | 0o644, OWNER).ino)
        saver = Saver(pram, "pramfs", tree)
        for number in range(count):
            tree.write(file, 0, numbered(number))
            name = require_new(pram, "pramfs", f"s{number}")
            saver.save(final=number == count - 1, progress=lambda pages: None, snapshot=name)


def names_in(target: Path) -> list[str]:
    told = pramfs("snapshots", "--json", target).succeeded().out
    return [one["name"] for one in json.loads(told)["snapshots"]]


def test_many_snapshots_through_every_command(volume: Volume, long: bool) -> None:
    count = 10_000 if long else 300
    names = [f"s{number}" for number in range(count)]
    image, middle = volume.image, f"s{count // 2}"
    take_many(image, count)
    volume.size = f"{image.stat().st_size}"

    assert names_in(image) == names
    pramfs("check", image).succeeded()
    nodes = pramfs("info", image).succeeded().text + pramfs("nodes", image).succeeded().text
    assert nodes.count(f"pramfs@{middle}-meta") == 2
    assert "file" in pramfs("ls", "--name", middle, image).succeeded().text
    told = pramfs("cat", "--name", f"@{middle}", image, "file").succeeded().out
    assert told == numbered(count // 2)
    out = volume.home / "out"
    pramfs("extract", "--name", f"pramfs@{middle}", "-C", out, image).succeeded()
    assert (out / "file").read_bytes() == told
    for other in ([], [f"s{count - 1}"]):
        found = pramfs("diff", image, "s0", *other)
        assert (found.code, found.text.splitlines()[-1]) == (DIFF_FOUND, "1 changed, 1 page")
    pramfs("map", "--file", "file", "--name", middle, image).succeeded()
    pramfs("dump", image).succeeded()
    pramfs("rollback", image, "none").refused(MOUNT_FAILED, "no snapshot", f"and {count - 10} more")

    root = volume.mount()
    assert sorted(os.listdir(root / ".snapshots")) == sorted(names)
    assert sum(entry.stat().st_size > 0 for entry in os.scandir(root / ".snapshots")) == count
    for number in range(0, count, 7):
        assert (root / f".snapshots/s{number}/file").read_bytes() == numbered(number)
    (root / "more").write_bytes(b"more")
    volume.save()
    pramfs("snapshot", root, "new").succeeded()
    for gone in ("s0", f"s{count - 1}", middle):
        pramfs("free", root, gone).succeeded()
        assert not (root / ".snapshots" / gone).exists()
        names.remove(gone)
    pramfs("free", root, "s0").refused(MOUNT_FAILED, "no snapshot 's0'", f"and {count - 12} more")
    assert names_in(root) == [*names, "new"]
    volume.umount()

    for number in range(4):
        (volume.mount("keep=2") / "more").write_bytes(b"%d" % number)
        volume.umount()
    assert len(names_in(image)) == len(names) + 3
    assert (volume.mount("snapshot=s1") / "file").read_bytes() == numbered(1)
    volume.umount()
    pramfs("rollback", image, "s1").succeeded()
    pramfs("check", image).succeeded()
    assert (volume.mount() / "file").read_bytes() == numbered(1)
    volume.umount()
    assert f"{image}: freed " in pramfs("free", image).succeeded().text
    assert names_in(image) == []
