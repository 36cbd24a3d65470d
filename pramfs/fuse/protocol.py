"""What is said on /dev/fuse: the opcodes, flags and structs of <linux/fuse.h>, and no logic.

A request is an `IN_HEADER`, one struct, and names that end with a zero byte each, or data. A reply is an
`OUT_HEADER` and one struct or data. All integers have the byte order of the machine.
"""

import enum
import mmap
from struct import Struct


class Opcode(enum.IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


# The largest request: max_write of libfuse, 256 pages of the kernel, and the header that it asks for.
REQUEST_MAX_BYTES = 256 * mmap.PAGESIZE + 4096

# --- headers -------------------------------------------------------------------------------------

# len, opcode, unique, nodeid, uid, gid, pid; total_extlen, which nothing agreed on needs, and padding
IN_HEADER = Struct("=IIQQIII4x")
OUT_HEADER = Struct("=IiQ")  # len, error (a negative errno), unique

# --- attributes ----------------------------------------------------------------------------------

# ino, size, blocks, atime, mtime, ctime; the nanoseconds of these three, mode, nlink, uid, gid, rdev,
# blksize, flags
_ATTR = "QQQqqqIIIIIIIIII"
ATTR_OUT = Struct(f"=QII{_ATTR}")  # attr_valid, attr_valid_nsec, dummy, attr
# nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr
ENTRY_OUT = Struct(f"=QQQQII{_ATTR}")

# valid, padding, fh, size, lock_owner, atime, mtime, ctime; the nanoseconds of these three, mode, unused,
# uid, gid, unused
SETATTR_IN = Struct("=IIQQQqqqIIIIIIII")
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6  # for a call on an open file
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_CTIME = 1 << 10

GETATTR_IN = Struct("=IIQ")  # getattr_flags, dummy, fh
GETATTR_FH = 1 << 0  # for a call on an open file; with cached writes only for write(2)
# getattr_flags, reserved, fh, sx_flags, sx_mask
STATX_IN = Struct("=IIQII")
# attr_valid and so on as above, and spare bytes; then mask, blksize, attributes, nlink, uid, gid, mode,
# spare, ino, size, blocks, attributes_mask; then atime, btime, ctime, mtime with nanoseconds; then rdev and
# dev, major and minor each, and spare bytes.
STATX_OUT = Struct("=QII16xIIQIIIHHQQQQqIiqIiqIiqIiIIII112x")
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800

# IOCTL: only those of linux/fs.h for the flags of inodes.
IOCTL_IN = Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size; data
IOCTL_OUT = Struct("=iIII")  # result, flags, in_iovs, out_iovs; data
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
IOC_FLAGS = Struct("=I")
FSXATTR = Struct("=I24x")  # xflags; extsize, nextents, projid, cowextsize, pad

# size, flags; name, value. It would be longer if SETXATTR_EXT were agreed on
SETXATTR_IN = Struct("=II")
GETXATTR_IN = Struct("=II")  # size, padding; name
GETXATTR_OUT = Struct("=II")  # size, padding

# --- names ---------------------------------------------------------------------------------------

FORGET_IN = Struct("=Q")  # nlookup
BATCH_FORGET_IN = Struct("=II")  # count, dummy
FORGET_ONE = Struct("=QQ")  # nodeid, nlookup
MKNOD_IN = Struct("=IIII")  # mode, rdev, umask, padding; name
MKDIR_IN = Struct("=II")  # mode, umask; name
LINK_IN = Struct("=Q")  # oldnodeid; name
RENAME_IN = Struct("=Q")  # newdir; name, new name
RENAME2_IN = Struct("=QII")  # newdir, flags, padding; name, new name
CREATE_IN = Struct("=IIII")  # flags, mode, umask, open_flags; name

# --- open files ----------------------------------------------------------------------------------

OPEN_IN = Struct("=II")  # flags, open_flags
OPEN_OUT = Struct("=QII")  # fh, open_flags, padding
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3

RELEASE_IN = Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
READ_IN = Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
READ_LOCKOWNER = 1 << 1  # as the kernel has it: set for a read past its page cache, and only there
WRITE_IN = Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding; data
WRITE_OUT = Struct("=II")  # size, padding
WRITE_CACHE = 1 << 0  # what a program has written before, from the page cache; fh is a guess
WRITE_LOCKOWNER = 1 << 1  # set for a write past the page cache, and only there
WRITE_KILL_SUIDGID = 1 << 2

FALLOCATE_IN = Struct("=QQQII")  # fh, offset, length, mode, padding
LSEEK_IN = Struct("=QQII")  # fh, offset, whence, padding
LSEEK_OUT = Struct("=Q")  # offset
# fh_in, off_in, nodeid_out, fh_out, off_out, len, flags. The reply is a WRITE_OUT, or, to the second opcode,
# the number of bytes.
COPY_FILE_RANGE_IN = Struct("=QQQQQQQ")
COPY_FILE_RANGE_64_OUT = Struct("=Q")

DIRENT = Struct("=QQII")  # ino, off, namelen, type; name, padded to 8 bytes

# --- of the session ------------------------------------------------------------------------------

INTERRUPT_IN = Struct("=Q")  # unique

# INIT: of both structs only what is changed on the way. The upper flags are at other places in them.
INIT_FLAGS_OFFSET = 12
INIT_OUT_CONGESTION_OFFSET = 18
INIT_OUT_CONGESTION = Struct("=H")
INIT_OUT_MAX_WRITE_OFFSET = 20
INIT_OUT_MAX_WRITE = Struct("=I")
INIT_FLAGS = Struct("=I")
INIT_IN_FLAGS2_OFFSET = 16
INIT_OUT_FLAGS2_OFFSET = 32
ATOMIC_O_TRUNC = 1 << 3
DONT_MASK = 1 << 6
HANDLE_KILLPRIV = 1 << 19
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30  # there are upper flags
DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32)

# --- to the kernel, without a request ------------------------------------------------------------

NOTIFY_INVAL_INODE = 2  # instead of the error, with unique 0
NOTIFY_INVAL_ENTRY = 3
INVAL_INODE_OUT = Struct("=Qqq")  # ino, off, len; a negative off: only attributes
INVAL_ENTRY_OUT = Struct("=QII")  # ino of the directory, namelen, flags; name, and a zero byte
