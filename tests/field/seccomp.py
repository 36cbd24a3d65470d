"""System calls that are refused to a process and its children, as by container runtimes and units."""

import ctypes
import os
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06

# Each with its numbers on x86-64 and on arm64.
_NUMBERS = {
    "madvise": (28, 233),
    "setpriority": (141, 140),
    "mlock": (149, 228),
    "mlockall": (151, 230),
    "sched_setaffinity": (203, 122),
    "fadvise64": (221, 223),
    "sync_file_range": (277, 84),
    "fallocate": (285, 47),
    "name_to_handle_at": (303, 264),
    "userfaultfd": (323, 282),
    "mlock2": (325, 284),
    "copy_file_range": (326, 285),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "pidfd_open": (434, 434),
    "openat2": (437, 437),
}


def refuse(number: int) -> None:
    """Let all these calls fail with an errno, from now on. Takes root."""
    of_arm = platform.machine() == "aarch64"
    code = [_instruction(_LOAD, 0)]  # the number of the call, which struct seccomp_data begins with
    for numbers in _NUMBERS.values():
        code.append(_instruction(_JUMP_IF_EQUAL, numbers[of_arm], skip_if_not=1))
        code.append(_instruction(_RETURN, _ERRNO | number))
    code.append(_instruction(_RETURN, _ALLOW))
    instructions = ctypes.create_string_buffer(b"".join(code))
    program = struct.pack("@HP", len(code), ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _instruction(what: int, value: int, *, skip_if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", what, 0, skip_if_not, value)
