"""Very many small files: create, save, load, walk; what each costs in memory and in frames."""

from benchmarks import peers
from benchmarks.bench import FILES_PER_DIR, MIB, Bench
from benchmarks.commands import remove_tree, timed
from benchmarks.figures import PRAMFS, Row, faster, limit

_FRAME_BYTES = 4096
_FILE_BYTES = 512
_TAR = "tar"
_TMPFS_TAR = "tmpfs + tar"


def many_files(bench: Bench) -> list[Row]:
    """Directories of a hundred files each; the peer is the same tree on tmpfs, packed by tar."""
    samples = bench.alternate(
        {PRAMFS: lambda: _pramfs_round(bench), _TMPFS_TAR: lambda: _tar_round(bench)},
        rounds=bench.scale.many_rounds,
    )
    tar = faster(_TMPFS_TAR, 1.5, must=1.0)
    return [
        Row("create", samples.get("create", {})),
        Row("save", samples.get("save", {}), targets=[tar]),
        Row("load", samples.get("load", {}), targets=[tar]),
        Row("walk", samples.get("walk", {})),
        Row("daemon's memory per inode, after creating", samples.get("grown", {}), "B", _MEMORY),
        Row("daemon's memory per inode, after loading", samples.get("loaded", {}), "B", _MEMORY),
        Row("frames beyond the data, per file", samples.get("frames", {}), "B", [limit(300)]),
    ]


_MEMORY = [limit(700, must=1.2 * 1024)]


def _pramfs_round(bench: Bench) -> dict[str, float]:
    files = bench.scale.many_dirs * FILES_PER_DIR
    inodes = files + bench.scale.many_dirs
    size = files * _FRAME_BYTES * 5 // 4 + 64 * MIB
    with bench.pramfs(size, f"nr_inodes={2 * inodes}").image() as image:
        image.mount()
        empty = image.daemon.anonymous_bytes()
        (created,) = bench.client(
            "grow", image.mountpoint, bench.scale.many_dirs, FILES_PER_DIR, _FILE_BYTES
        )
        grown = image.daemon.anonymous_bytes()
        saved = image.save()
        overhead = image.frames_used() * _FRAME_BYTES - files * _FRAME_BYTES
        loading = image.mount()
        loaded = image.daemon.anonymous_bytes()
        (walked,) = bench.client("walk", image.mountpoint, inodes)
    return {
        "create": created,
        "save": saved,
        "load": loading,
        "walk": walked,
        "grown": (grown - empty) / inodes,
        "loaded": (loaded - empty) / inodes,
        "frames": overhead / files,
    }


def _tar_round(bench: Bench) -> dict[str, float]:
    dirs = bench.scale.many_dirs
    with peers.scratch(bench.work) as directory:
        tree, copy, archive = (directory / name for name in ("tree", "copy", "tree.tar"))
        tree.mkdir()
        copy.mkdir()
        (created,) = bench.client("grow", tree, dirs, FILES_PER_DIR, _FILE_BYTES)
        packed = timed("tar", "-cf", archive, "-C", tree, ".")
        (walked,) = bench.client("walk", tree, dirs * (FILES_PER_DIR + 1))
        remove_tree(tree)
        unpacked = timed("tar", "-xf", archive, "-C", copy)
    return {"create": created, "save": packed, "load": unpacked, "walk": walked}
