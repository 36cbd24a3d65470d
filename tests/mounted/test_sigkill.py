"""SIGKILL at a random moment of random work, saves and unmounts included: what was published is there.

Which tree and snapshots these are, the test knows from what it asked for: the last save that was
acknowledged, or the one that was under way.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, Volume, start_pramfs

ROUNDS = 5
ROUNDS_LONG = 250  # in each arena
FILES_MAX = 40
FILE_MAX = 200 * KIB
KILL_WITHIN_S = 0.5

SNAPSHOTS = ("s1", "s2", "s3")

Files = dict[str, bytes]
Snapshots = dict[str, Files]


class Worker:
    """Changes files and saves, until the daemon is gone."""

    def __init__(self, root: Path, rng: random.Random, files: Files, snapshots: Snapshots) -> None:
        self._root = root
        self._rng = rng
        self._files = dict(files)
        self.saved = dict(files)  # the last save that was acknowledged
        self.pending: Files | None = None  # the save that is under way
        self._snapshots = dict(snapshots)
        self.snapshots = [dict(snapshots)]  # those that may be there: as acknowledged, or under way

    def run(self) -> None:
        """Work. Returns when a call fails."""
        with contextlib.suppress(OSError):
            while True:
                for _ in range(self._rng.randrange(30)):
                    self._change()
                self._save()

    def _save(self) -> None:
        """Save, and take a snapshot with that or free one."""
        self.begin_save()
        name = self._rng.choice((*SNAPSHOTS, ""))
        if not name:
            os.setxattr(self._root, "user.pramfs.save", b"1")
        elif name in self._snapshots:
            del self._snapshots[name]
            self.snapshots.append(dict(self._snapshots))
            os.setxattr(self._root, "user.pramfs.free", f"pramfs@{name}".encode())
        else:
            self._snapshots[name] = dict(self._files)
            self.snapshots.append(dict(self._snapshots))
            os.setxattr(self._root, "user.pramfs.snapshot", name.encode())
        self.snapshots = [dict(self._snapshots)]
        self.end_save()

    def work_once(self) -> None:
        """Some changes, which the caller then has saved by an unmount."""
        for _ in range(30):
            self._change()
        self.begin_save()

    def begin_save(self) -> None:
        self.pending = dict(self._files)

    def end_save(self) -> None:
        assert self.pending is not None
        self.saved, self.pending = self.pending, None

    def _change(self) -> None:
        name = f"d{self._rng.randrange(3)}/f{self._rng.randrange(FILES_MAX)}"
        path = self._root / name
        kind = self._rng.choice(["write", "write", "append", "truncate", "unlink", "rename"])
        if name not in self._files or kind == "write":
            path.parent.mkdir(exist_ok=True)
            self._files[name] = self._rng.randbytes(self._rng.randrange(FILE_MAX))
            path.write_bytes(self._files[name])
        elif kind == "append":
            data = self._rng.randbytes(self._rng.randrange(5000))
            with path.open("ab") as file:
                file.write(data)
            self._files[name] += data
        elif kind == "truncate":
            size = self._rng.randrange(FILE_MAX)
            os.truncate(path, size)
            self._files[name] = self._files[name][:size].ljust(size, b"\0")
        elif kind == "unlink":
            path.unlink()
            del self._files[name]
        else:
            path.rename(self._root / "d0" / "renamed")
            self._files["d0/renamed"] = self._files.pop(name)


@pytest.mark.timeout(7200)
def test_a_killed_daemon_leaves_the_published_tree(volume: Volume, long: bool) -> None:
    seed = random.randrange(1 << 32) if long else 5
    rng = random.Random(seed)
    files: Files = {}
    snapshots: Snapshots = {}
    for number in range(ROUNDS_LONG if long else ROUNDS):
        root = volume.mount()
        (root / "d0").mkdir(exist_ok=True)
        os.setxattr(root, "user.pramfs.save", b"1")
        worker = Worker(root, rng, files, snapshots)
        killer = threading.Timer(
            rng.random() * KILL_WITHIN_S, os.kill, (volume.pid, signal.SIGKILL)
        )
        if number % 3:
            killer.start()
            worker.run()
            killer.join()
            volume.kill()
        else:
            worker.work_once()
            killer.start()
            _unmount(volume, killer)
        files, snapshots = _files(volume)
        found = [name for name, tree in _published(worker).items() if tree == files]
        assert found, f"round {number} of seed {seed}: neither the last save nor the pending one"
        assert snapshots in worker.snapshots, f"round {number} of seed {seed}: other snapshots"


def _unmount(volume: Volume, killer: threading.Timer) -> None:
    """Unmount while the killer is about; either may be first."""
    with start_pramfs("umount", volume.root, stderr=subprocess.DEVNULL) as umount:
        killer.join()
        umount.wait()
    if volume.is_mounted:
        volume.kill()
    else:
        volume.ended(volume.daemon.wait())


def _published(worker: Worker) -> dict[str, Files]:
    trees = {"saved": worker.saved}
    return trees if worker.pending is None else trees | {"pending": worker.pending}


def _files(volume: Volume) -> tuple[Files, Snapshots]:
    """What the next mount finds in the tree, and in its snapshots."""
    root = volume.mount()
    snapshots = {path.name: _files_below(path) for path in (root / ".snapshots").iterdir()}
    files = _files_below(root)
    volume.umount()
    return files, snapshots


def _files_below(root: Path) -> Files:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
