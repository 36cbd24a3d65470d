"""Debian 12's own kernel, Linux 6.1, offers less than newer ones: what it has not got is a clean errno."""

import base64
import json
from typing import Any

import pytest

from tests.kexec.session import Session

pytestmark = pytest.mark.timeout(900)

# Each call on a fresh file of 3 pages; its outcome is what it returned, or the name of its errno.
_PROGRAM = """
import ctypes, errno, fcntl, json, mmap, os, pathlib, shutil, struct, subprocess, sys
option, image, root = sys.argv[1], pathlib.Path("/tmp/calls"), pathlib.Path("/tmp/calls.mnt")
root.mkdir()
subprocess.run(["pramfs", "mount", "-o", "size=64M" + option, image, root], check=True)
libc = ctypes.CDLL(None, use_errno=True)
content = bytes(range(256)) * 48

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

def fallocate(mode):
    length = 100_000 if not mode else 4096
    checked(libc.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(length)))
    return os.pread(file, 200_000, 0) == bytes(4096 if mode else 0) + content[4096 if mode else 0:] + (
        b"" if mode else bytes(length - len(content)))

def holes():
    os.pwrite(file, b"x", 1 << 20)
    return [os.lseek(file, 4 * 4096, os.SEEK_DATA), os.lseek(file, 0, os.SEEK_HOLE)]

def copy():
    with open(root / "copy", "wb+") as target:
        copied = os.copy_file_range(file, target.fileno(), 10_000)
        return copied == 10_000 and os.pread(target.fileno(), 20_000, 0) == content[:10_000]

def unnamed():
    with open(os.open(root, os.O_TMPFILE | os.O_RDWR), "rb") as found:
        return os.fstat(found.fileno()).st_nlink

def flags():
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        path.unlink()
    except PermissionError as exc:
        name = errno.errorcode[exc.errno]
    shown = subprocess.run(["lsattr", path], check=True, capture_output=True, text=True).stdout
    subprocess.run(["chattr", "-i", path], check=True)
    return [name, "i" in shown.split()[0]]

def born():
    buffer = ctypes.create_string_buffer(256)
    checked(libc.statx(-100, os.fsencode(path), 0, 0x800, buffer))
    return bool(struct.unpack_from("=I", buffer)[0] & 0x800)

def mapped():
    with mmap.mmap(file, len(content)) as view:
        view[5000:5003] = b"new"
        view.flush()
    return path.read_bytes()[5000:5003] == b"new"

def direct():
    buffer = mmap.mmap(-1, 4096)
    buffer[:] = b"d" * 4096
    with open(os.open(path, os.O_RDWR | os.O_DIRECT), "rb", buffering=0) as opened:
        written = os.pwrite(opened.fileno(), buffer, 4096)
    return [written, path.read_bytes() == content[:4096] + b"d" * 4096 + content[8192:]]

def renamed():
    (root / "other").write_bytes(b"other")
    checked(libc.renameat2(-100, os.fsencode(path), -100, os.fsencode(root / "other"), 2))
    return [path.read_bytes() == b"other", (root / "other").read_bytes() == content]

def removed():
    for number in range(3000):
        (root / "many" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (root / "many" / str(number % 3) / str(number)).touch()
    shutil.rmtree(root / "many")
    return (root / "many").exists()

def unlinked():
    again = os.dup(file)
    path.unlink()
    os.close(file)
    globals()["file"] = os.open(root / "spare", os.O_RDWR | os.O_CREAT)
    told = os.pread(again, 20_000, 0) == content
    os.close(again)
    return told

def made():
    for again in range(2):  # the kernel asks for the first one otherwise
        with open(os.open(root / f"made{again}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400), "wb+") as opened:
            opened.write(b"made")
            opened.seek(0)
            told = [opened.read() == b"made", oct(os.fstat(opened.fileno()).st_mode)]
    return told

def made_again():
    os.open(root / "made1", os.O_CREAT | os.O_EXCL | os.O_RDWR)

def listed():
    folder, moved = root / "folder", root / "moved"
    folder.mkdir()
    for number in range(500):
        (folder / str(number)).touch()
    told = [len(os.listdir(folder)) for _ in range(3)]  # the third may be the kernel's own
    (folder / "0").rename(folder / "new")
    names = os.listdir(folder)
    folder.rename(moved)
    told += ["0" in names, "new" in names, sorted(os.listdir(moved)) == sorted(names)]
    with os.scandir(moved) as entries:
        for entry in entries:
            os.unlink(entry.path)
    return [*told, os.listdir(moved)]

def unknown():
    return fcntl.ioctl(file, 0x80086699, bytes(8))

def cloned():
    with open(root / "clone", "wb") as target:
        return fcntl.ioctl(target.fileno(), 0x40049409, file)

calls = dict(
    reserve=lambda: fallocate(0), punch=lambda: fallocate(3), zero=lambda: fallocate(16),
    collapse=lambda: fallocate(8), holes=holes, copy=copy, unnamed=unnamed, flags=flags, born=born,
    mapped=mapped, direct=direct, renamed=renamed, removed=removed, unlinked=unlinked, made=made,
    made_again=made_again, listed=listed, unknown=unknown, cloned=cloned,
)
told = {}
for name, call in calls.items():
    path = root / "file"
    path.write_bytes(content)
    file = os.open(path, os.O_RDWR)
    try:
        told[name] = call()
    except OSError as exc:
        told[name] = errno.errorcode[exc.errno]
    os.close(file)
print(json.dumps(told))
status = json.loads(subprocess.run(["pramfs", "status", "--json", root], capture_output=True).stdout)
told["suspect"] = status["suspect"]
subprocess.run(["pramfs", "umount", root], check=True, stderr=sys.stdout)
told["check"] = subprocess.run(["pramfs", "check", image], capture_output=True).returncode
image.unlink()
root.rmdir()
print(json.dumps(told))
"""

TOLD: dict[str, Any] = {
    "reserve": True,
    "punch": True,
    "zero": True,
    "collapse": "ENOTSUP",
    "holes": [1 << 20, 3 * 4096],
    "copy": True,
    "unnamed": 0,
    "flags": ["EPERM", True],
    "born": False,  # from Linux 6.6 on
    "mapped": True,
    "direct": [4096, True],
    "renamed": [True, True],
    "removed": False,
    "unlinked": True,
    "made": [True, "0o100400"],
    "made_again": "EEXIST",
    "listed": [500, 500, 500, False, True, True, []],
    "unknown": "ENOTTY",
    "cloned": "ENOTSUP",
    "suspect": False,
    "check": 0,
}


@pytest.mark.parametrize(
    ("option", "differs"),
    [("", {}), (",direct_io", {"mapped": "ENODEV"})],  # both from Linux 6.6 on
    ids=["cached", "direct_io"],
)
def test_what_linux_6_1_has_not_got_is_a_clean_errno(
    session: Session, option: str, differs: dict[str, Any]
) -> None:
    program = base64.b64encode(_PROGRAM.encode()).decode()
    command = f"echo {program} | base64 -d >/tmp/calls.py && python3 /tmp/calls.py '{option}'"
    assert session.machine.run("uname -r").startswith("6.1.")
    assert json.loads(session.machine.run(command).splitlines()[-1]) == TOLD | differs
