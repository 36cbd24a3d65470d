"""An automounter for one directory, as a program: what systemd is for x-systemd.automount.

usage: automounter.py DIRECTORY COMMAND...

The kernel holds whoever looks into DIRECTORY until COMMAND has mounted something there. COMMAND runs in the
process group of this process, the only one that the kernel does not hold. Exits 0 when the one who looked
has seen what it was waiting for.
"""

import ctypes
import fcntl
import os
import struct
import subprocess
import sys

_READY, _FAIL, _CATATONIC = 0x9360, 0x9361, 0x9362  # AUTOFS_IOC_…
_PACKET_BYTES = 512
_TOKEN = struct.Struct("=I")
_TOKEN_OFFSET = 8  # in struct autofs_v5_packet
_LIMIT_S = 60


def serve(directory: str, command: list[str]) -> int:
    """Mount the trap, let somebody run into it, run the command; returns the exit code of who ran into it."""
    os.setpgid(0, 0)
    read_end, write_end = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={write_end},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    if libc.mount(b"automounter", directory.encode(), b"autofs", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount autofs")
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    look = subprocess.Popen(["setsid", "ls", f"{directory}/."])
    (token,) = _TOKEN.unpack_from(os.read(read_end, _PACKET_BYTES), _TOKEN_OFFSET)
    helper = subprocess.Popen(command)
    try:
        done = helper.wait(_LIMIT_S) == 0
    except subprocess.TimeoutExpired:
        done = False
        helper.terminate()
        print("the mount command hangs", file=sys.stderr)
    fcntl.ioctl(root, _READY if done else _FAIL, token)
    if not done:
        fcntl.ioctl(root, _CATATONIC, 0)  # nobody is held any more
    try:
        return look.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        look.kill()
        return look.wait()
    finally:
        fcntl.ioctl(root, _CATATONIC, 0)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2:]))
