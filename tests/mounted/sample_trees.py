"""Trees to put into a mount, and snapshots that say whether they came back.

A snapshot is what the tools of the shell see: `find -printf`, `stat`, `getfattr -d -m -`, and the
sha256 of every file. Names are text with surrogates for bytes that are not UTF-8, as in `os`.
"""

import hashlib
import itertools
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

from tests.mounted.harness import MIB, PAGE, run

Snapshot = dict[str, dict[str, str]]

_S = 1_000_000_000
TIMES_NS = {
    "1931": -1_230_000_000 * _S - 876_543_211,
    "one nanosecond before 1970": -1,
    "1970": 0,
    "one nanosecond after 1970": 1,
    "the last second of 32 bits": (2**31 - 1) * _S + 999_999_999,
    "2038": 2**31 * _S + 123_456_789,
    "2150": 5_680_000_000 * _S + 987_654_321,
}
ODD_NAMES = {
    "every byte": os.fsdecode(bytes(byte for byte in range(1, 256) if byte != ord("/"))),
    "255 bytes": "n" * 255,
    "a newline": "\n",
    "a space": " ",
    "an option": "-rf",
    "dots": "...",
    "not UTF-8": os.fsdecode(b"\xff\xfe\x80"),
    "backslashes": "\\001\\\\",
    "beyond the basic plane": "\N{ELEPHANT}",
}
SIZES = (0, 1, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE, 1 * MIB + 17, 5 * MIB)
SPARSE_SIZE = 4 * MIB + 1
SPARSE = {  # offsets and sizes of the data, the rest is holes
    "only a hole": [],
    "data first": [(0, 3 * PAGE)],
    "data last": [(SPARSE_SIZE - 5, 5)],
    "an island": [(2 * MIB + 1, PAGE)],
    "islands": [(number * MIB // 10, number * 100) for number in range(1, 40)],
}
MODES = (0o000, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1644)
OWNERS = ((0, 0), (1, 2), (65534, 65534), (70_000, 4_000_000_000))
XATTRS = {  # security.capability is cap_net_bind_service+p
    "user.comment": b"plain text",
    "user.empty": b"",
    "user.binary": bytes(range(256)),
    "user.long": b"x" * 1000,
    "trusted.overlay.opaque": b"y",
    "security.pram": b"label\0",
    "security.capability": bytes.fromhex("0000000200040000000000000000000000000000"),
}

_FIND = {
    "kind": "%y", "mode": "%m", "uid": "%U", "gid": "%G", "nlink": "%n", "size": "%s",
    "mtime": "%T@", "ctime": "%C@", "inode": "%i", "blocks": "%b", "target": "%l",
}  # fmt: skip
_STAT = {"rdev": "%t:%T", "atime": "%x"}
# A snapshot reads links and directories, which may change their atimes.
_ATIME_CHANGES = "ld"


def plant_everything(root: Path) -> None:
    """Fill the directory `root` with one of everything that a POSIX tree can hold."""
    for name, plant in _PLANTS.items():
        (root / name).mkdir()
        plant(root / name)
    _age(root)


def plant_files(root: Path, count: int, *, seed: int = 0) -> None:
    """Put `count` small files of differing sizes and contents into `root`, in ten directories."""
    rng = random.Random(seed)
    for number in range(count):
        directory = root / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(rng.randbytes(rng.randrange(2 * PAGE)))


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no page of zeros, and no other seed, has."""
    return random.Random(seed).randbytes(size)


def snapshot(root: Path) -> Snapshot:
    """Everything that can be seen of the tree below `root`, itself included, by path.

    The entry "getfattr" holds the extended attributes of all paths, spelled as getfattr does.
    """
    found = run("find", ".", "-printf", "%p\\0" + _zero_ended(_FIND), cwd=root).succeeded()
    tree = _table(_FIND, found.out)
    names = os.fsencode("".join(f"{name}\0" for name in tree))
    stat_command = ("xargs", "-0", "stat", "--printf", "%n\\0" + _zero_ended(_STAT))
    stats = _table(_STAT, run(*stat_command, stdin=names, cwd=root).succeeded().out)
    for name, seen in tree.items():
        seen.update(stats[name])
        if seen["kind"] == "f":
            seen["sha256"] = _sha256(root / name)
        if seen["kind"] in _ATIME_CHANGES:
            del seen["atime"]
    return tree | {"getfattr": _xattrs(root)}


def assert_same(now: Snapshot, before: Snapshot) -> None:
    """Assert that two snapshots are equal; a failure tells only what differs."""
    differences = [
        f"{name}: {field}: {before.get(name, {}).get(field)!r} became {now[name].get(field)!r}"
        for name in now
        for field in {**before.get(name, {}), **now[name]}
        if now[name].get(field) != before.get(name, {}).get(field)
    ]
    differences += [f"{name}: gone" for name in before.keys() - now.keys()]
    assert not differences, "\n".join(differences[:20])


def assert_same_below(now: Snapshot, before: Snapshot) -> None:
    """The same, but for the root itself: its times, say, when entries came and went."""
    assert_same({**now, ".": {}}, {**before, ".": {}})


def portable(tree: Snapshot) -> Snapshot:
    """The part of a snapshot that a faithful copy on another file system has as well."""
    first_of_inode: dict[str, str] = {}
    for name, seen in sorted(tree.items()):
        if name != "getfattr":
            seen["hard link of"] = first_of_inode.setdefault(seen["inode"], name)
    return {name: _portable_fields(seen) for name, seen in tree.items()}


def _portable_fields(seen: dict[str, str]) -> dict[str, str]:
    dropped = {"ctime", "inode", "blocks", "atime"}
    if seen.get("kind") == "d":
        dropped |= {"size", "nlink"}
    return {field: value for field, value in seen.items() if field not in dropped}


def _zero_ended(fields: dict[str, str]) -> str:
    return "".join(f"{code}\\0" for code in fields.values())


def _table(fields: dict[str, str], text: bytes) -> Snapshot:
    words = os.fsdecode(text).split("\0")[:-1]
    width = 1 + len(fields)
    rows = [words[start : start + width] for start in range(0, len(words), width)]
    return {row[0]: dict(zip(fields, row[1:], strict=True)) for row in rows}


def _xattrs(root: Path) -> dict[str, str]:
    argv = ("getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", ".")
    blocks = [block.splitlines() for block in run(*argv, cwd=root).succeeded().text.split("\n\n")]
    return {lines[0]: " ".join(sorted(lines[1:])) for lines in blocks if lines}


def _sha256(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plant_regular(root: Path) -> None:
    for size in SIZES:
        (root / f"{size} bytes").write_bytes(noise(size, seed=size))


def _plant_sparse(root: Path) -> None:
    for name, pieces in SPARSE.items():
        with (root / name).open("wb") as file:
            for offset, size in pieces:
                file.seek(offset)
                file.write(noise(size, seed=offset))
            file.truncate(SPARSE_SIZE)


def _plant_directories(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "/".join(f"level {level}" for level in range(30))).mkdir(parents=True)
    (root / "many").mkdir()
    for number in range(300):
        (root / "many" / f"entry {number}").touch()


def _plant_names(root: Path) -> None:
    for content, name in ODD_NAMES.items():
        (root / name).write_text(content)


def _plant_symlinks(root: Path) -> None:
    targets = ["..", "nowhere", "/etc/passwd", "t" * 4095, *ODD_NAMES.values()]
    for number, target in enumerate(targets):
        (root / f"link {number}").symlink_to(target)


def _plant_hard_links(root: Path) -> None:
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "first").write_bytes(b"one file, three names")
    (root / "b" / "second").hardlink_to(root / "a" / "first")
    (root / "third").hardlink_to(root / "a" / "first")
    (root / "symlink").symlink_to("third")
    os.link(root / "symlink", root / "hard link of a symlink", follow_symlinks=False)


def _plant_special(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 1_000_000))


def _plant_modes_and_owners(root: Path) -> None:
    for number, mode in enumerate(MODES):
        uid, gid = OWNERS[number % len(OWNERS)]
        file, directory = root / f"file {mode:04o}", root / f"directory {mode:04o}"
        file.write_bytes(b"")
        directory.mkdir()
        for path in (file, directory):
            os.chown(path, uid, gid)
            path.chmod(mode)  # after chown, which clears the set-id bits
    (root / "symlink").symlink_to("nowhere")
    os.chown(root / "symlink", 1, 2, follow_symlinks=False)


def _plant_xattrs(root: Path) -> None:
    (root / "file").write_bytes(b"")
    (root / "directory").mkdir()
    for path in (root / "file", root / "directory"):
        for name, value in XATTRS.items():
            os.setxattr(path, name, value)
    (root / "symlink").symlink_to("nowhere")
    os.setxattr(root / "symlink", "trusted.of a symlink", b"v", follow_symlinks=False)


def _age(root: Path) -> None:
    """Give everything below `root` a time of the table, what lies deepest first."""
    times_ns = list(TIMES_NS.values())
    # Not rglob: Python 3.11.2, Debian's, stumbles over the targets of the long symbolic links.
    paths = [Path(at, name) for at, *names in os.walk(root) for name in itertools.chain(*names)]
    paths.sort(key=lambda path: (len(path.parts), path), reverse=True)
    for number, path in enumerate(paths):
        atime_ns, mtime_ns = times_ns[number % len(times_ns)], times_ns[number % len(times_ns) - 1]
        os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)


_PLANTS: dict[str, Callable[[Path], None]] = {
    "regular": _plant_regular,
    "sparse": _plant_sparse,
    "directories": _plant_directories,
    "names": _plant_names,
    "symlinks": _plant_symlinks,
    "hard links": _plant_hard_links,
    "special": _plant_special,
    "modes and owners": _plant_modes_and_owners,
    "xattrs": _plant_xattrs,
}
