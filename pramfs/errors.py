"""The exceptions of pramfs, each with its errno and exit code.

The docstring of an exception is the template of its message. Exit codes are those of mount(8), except that
`pramfs check` uses the bits of fsck(8), and `pramfs diff` the codes of diff(1). POSIX errors of a tree are
plain `OSError`s.
"""

import errno
import functools
import os
import re
from collections.abc import Sequence

EXIT_USAGE = 1
EXIT_SYSTEM = 2
EXIT_INTERNAL = 4
EXIT_INTERRUPTED = 8
EXIT_FAILED = 32
EXIT_UNKNOWN = 64

DIFF_EQUAL = 0
DIFF_FOUND = 1
DIFF_TROUBLE = 2

CHECK_CLEAN = 0
CHECK_DAMAGED = 4
CHECK_UNREADABLE = 8
CHECK_USAGE = 16


_CONTROL = re.compile("[\\x00-\\x1f\\x7f]")

_message_of = functools.cache(os.strerror)


def posix_error(number: int) -> OSError:
    """Return the OSError with that errno and its standard message."""
    return OSError(number, _message_of(number))


class ShortWrite(OSError):
    """The first `written` bytes of a write were written, and then something failed."""

    written = 0


class NoRoom(ShortWrite):
    """Too few frames are free. The failed call has changed nothing but what `written` says."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FramesHeld(NoRoom):
    """Too few frames are free, but the last save holds some that the next one frees.

    The caller makes a save and calls again.
    """


def words_of(error: BaseException) -> str:
    """Return the message of an error: of an OSError without number and quotes."""
    if isinstance(error, MemoryError):
        return os.strerror(errno.ENOMEM)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class PramError(Exception):
    """{0}"""

    errno = errno.EINVAL
    exit_code = EXIT_FAILED

    def __str__(self) -> str:
        args = [words_of(arg) if isinstance(arg, Exception) else arg for arg in self.args]
        # One line, in which names that have line breaks or several spaces can still be told apart.
        return _CONTROL.sub(lambda char: repr(char[0])[1:-1], (self.__doc__ or "").format(*args))


class UsageError(PramError):
    """{0}"""

    exit_code = EXIT_USAGE


class SystemFault(PramError):
    """{0}"""

    errno = errno.EIO
    exit_code = EXIT_SYSTEM


def fault_of(error: Exception) -> "OSError | PramError":
    """Return the error if it is one that users understand, else a SystemFault that has its text."""
    if isinstance(error, OSError | PramError):
        return error
    return SystemFault(f"internal error: {error!r}")


class UnknownOutcome(PramError):
    """{0}: unmounted, but {1}: it is unknown what is durable; see: pramfs info {2}"""

    exit_code = EXIT_UNKNOWN


class SaveUnknown(PramError):
    """{0}: it is unknown whether it is saved: {1}"""

    exit_code = EXIT_UNKNOWN


# --- mounts -------------------------------------------------------------------------------------


class NotMounted(PramError):
    """{0}: no pramfs is mounted there: {1}"""


class DeadMount(PramError):
    """{0}: a dead mount: its daemon is gone, and with it all that was not saved; clear it with: {1}"""

    errno = errno.ENOTCONN


class StatusNotAllowed(PramError):
    """{0}: {2}: only {1} may ask its daemon; run this with their rights"""


class SaveNotAllowed(PramError):
    """{0}: not saved: only {1} may ask for a save; run this with their rights"""


class UmountNotAllowed(PramError):
    """{0}: still mounted: only {1} can unmount it; run this with their rights"""


# --- banned regions (the parser's errors are those of the 2013 file system) -----------------------


class RegionSyntaxError(UsageError):
    """banned: {0} in '{1}'"""


# --- the image ----------------------------------------------------------------------------------


class NotAnImage(PramError):
    """{0}: not a pram image ({1}); nothing was changed"""


class NotBlank(PramError):
    """{0}: holds something already; nothing was changed"""

    errno = errno.EEXIST


class UnsupportedVersion(PramError):
    """{0}: the image has format version {1}, this pramfs reads version {2}; use a newer pramfs"""


class UnsupportedFeatures(PramError):
    """{0}: the image needs features 0x{1:x} that this pramfs does not have; use a newer pramfs"""


class ImageInUse(PramError):
    """{0}: in use by {1}"""

    errno = errno.EBUSY


class HeldByMachine(PramError):
    """{0}: in use by {1} since {2}, so its mark there says; if that machine is off: pramfs takeover {0}"""

    errno = errno.EBUSY


class SavedMeanwhile(PramError):
    """{0}: a save was published while it was read; try again"""

    errno = errno.EAGAIN


class DeviceGone(PramError):
    """device {0} is gone: it has no bytes at present"""

    errno = errno.ENODEV


class DeviceSilent(PramError):
    """device {0} does not answer: nothing is known of what is in it at present"""

    errno = errno.EIO


class ImageTooSmall(PramError):
    """{0}: too small: {1}"""

    errno = errno.ENOSPC


class TooMuchBanned(ImageTooSmall):
    """{0}: too much is banned: {1}"""


# --- kexec --------------------------------------------------------------------------------------


class NoPhysicalRange(PramError):
    """{0}: {1}: no memory of its own that outlives a kexec; boot with memmap=SIZE!START"""

    errno = errno.ENODEV


class LiveUpdateRefused(PramError):
    """/dev/liveupdate: {0}"""

    errno = errno.EOPNOTSUPP


class NotClaimed(PramError):
    """{0}: was handed over by the last kernel and is not claimed yet; first: pramfs claim"""

    errno = errno.EBUSY


class HandedOver(PramError):
    """{0}: handed over to the next kernel; to take it back: pramfs kexec --undo"""

    errno = errno.EBUSY


class KeptElsewhere(PramError):
    """{0}: process {1} keeps it, because {2}; see: pramfs claim --list"""

    errno = errno.EBUSY


class NotDumped(PramError):
    """{0}: cannot be dumped: {1}; log: {2}"""


class NotDumpable(PramError):
    """nothing was stopped, because not all can be dumped: {0}"""


# --- reservation (as in the 2013 file system: invalid, corrupted, busy, in this order) ----------


class InvalidPfn(PramError):
    """pfn:{0:x} invalid ({1})"""


class CorruptedPage(PramError):
    """pfn:{0:x} corrupted ({1})"""


class LostSave(PramError):
    """pfn:{0:x} corrupted (super block): a save later than generation {1} may be lost"""


class BusyPfn(PramError):
    """pfn:{0:x} busy ({1})"""

    errno = errno.EBUSY


class ReservationFailed(PramError):
    """Reservation failed: {0}"""

    def __init__(self, cause: PramError) -> None:
        super().__init__(cause)
        self.errno = cause.errno


# --- streams ------------------------------------------------------------------------------------


class NoSuperBlock(PramError):
    """no super block: {0}"""

    errno = errno.ENODEV


class NodeError(PramError):
    """{0}"""


class NameTooLong(NodeError):
    """node name '{0}' is too long: {1} bytes, at most {2}"""

    errno = errno.ENAMETOOLONG


class NoFrames(PramError):
    """no free frames: {0} needed, {1} available"""

    errno = errno.ENOSPC


class BadSnapshotName(PramError):
    """'{0}' cannot be the name of a snapshot: {1}"""

    exit_code = EXIT_USAGE


class BadTreeName(PramError):
    """'{0}' cannot be the name of a tree: {1}"""

    exit_code = EXIT_USAGE


class SnapshotExists(PramError):
    """there is a snapshot '{0}' already"""

    errno = errno.EEXIST


class NoSuchSnapshot(PramError):
    """{0}: no snapshot '{1}' of tree '{2}'; there are: {3}"""

    errno = errno.ENOENT


class TreeExists(PramError):
    """{0}: there is a tree '{1}' already; to mount it, leave out snapshot="""

    errno = errno.EEXIST


class NoRoomForSnapshot(PramError):
    """no room for a snapshot: {0} free frames needed, {1} available"""

    errno = errno.ENOSPC


class NoRoomForRollback(PramError):
    """no room for a rollback: {0} free frames needed, {1} available; free snapshots, or mount with size="""

    errno = errno.ENOSPC


class NoNameForReplaced(PramError):
    """{0}: tree '{1}': too long a name for a snapshot of what it is; free it first: pramfs free {0} {1}"""

    errno = errno.ENAMETOOLONG


class NodeExists(NodeError):
    """node '{0}' already exists"""

    errno = errno.EEXIST


class NoSuchNode(NodeError):
    """no node '{0}'"""

    errno = errno.ENOENT


class NodeBusy(NodeError):
    """node '{0}' is being saved or loaded"""

    errno = errno.EBUSY


class WrongStreamType(NodeError):
    """node '{0}' is a {1}, not a {2}"""

    errno = errno.EPERM


class DamagedPage(PramError):
    """pfn:{0:x} corrupted: the data page fails its checksum ({1})"""

    errno = errno.EFAULT


class LostPages(PramError):
    """the medium failed and lost pages that no save holds yet ({0} of them)"""

    errno = errno.EIO

    def __init__(self, pfns: Sequence[int]) -> None:
        super().__init__(len(pfns))
        self.pfns = pfns


class ReadOnlyImage(PramError):
    """the image is open read-only"""

    errno = errno.EROFS


# --- trees on their way ---------------------------------------------------------------------------


class NoStream(PramError):
    """standard input is no stream of pramfs send: {0}"""


class StreamCut(PramError):
    """the stream was cut off after {0} bytes; nothing was changed: send it again"""


class StreamDamaged(PramError):
    """the stream is damaged: {0}; nothing was changed: send it again"""


class StreamRefused(PramError):
    """the stream cannot be right: {0}; nothing was changed"""


class NewerStream(PramError):
    """the stream has version {0}, this pramfs reads version {1}; use a newer pramfs"""


class NoBase(PramError):
    """{0}: no tree here is what the stream builds on, '{1}' of the sender: send all, without --since"""

    errno = errno.ENOENT


class PlaceFailed(PramError):
    """{0}: cannot {1} there: {2}"""

    errno = errno.EIO


class DamagedInPlace(PramError):
    """{0}: damaged there: {1}: {2}; nothing was taken of it"""

    errno = errno.EFAULT


class DroppedMeanwhile(PramError):
    """{0}: {1}, {2}, was dropped there meanwhile; nothing was taken of it: receive again"""

    errno = errno.ENOENT


class NoSuchStream(PramError):
    """{0}: there is no stream{1} to receive{2}"""

    errno = errno.ENOENT


class EmptyPlace(PramError):
    """{0}: there are no streams"""

    errno = errno.ENOENT


class NotAPlace(PramError):
    """{0}: {1}, not a directory with streams; {2}"""

    errno = errno.ENOTDIR


class NoBaseInPlace(PramError):
    """{0}: no stream there has what '{1}' is: send that one first, or all, without --since"""

    errno = errno.ENOENT


class BaseNowhere(PramError):
    """{0}: '{1}' builds on the sender's '{2}', which is neither there nor in {3}: send all of it"""

    errno = errno.ENOENT


class NotDropped(PramError):
    """{0}: sent, but what is old may still be there: {1}"""


class NameTaken(PramError):
    """{0}: there is a tree '{1}' already; give the new one another name with --as"""

    errno = errno.EEXIST


class NoRoomForStream(PramError):
    """{0}: no room for the stream: {1} free frames needed, {2} available; {3}"""

    errno = errno.ENOSPC


# --- trees --------------------------------------------------------------------------------------


class DamagedTree(PramError):
    """tree '{0}' is damaged: {1}"""

    errno = errno.EFAULT


class LostFiles(PramError):
    """the medium failed and lost what was written to {0}; remove these files or write them anew"""

    errno = errno.EIO


class SaveIncomplete(PramError):
    """save is incomplete: not all that programs have written since the last one was taken: {0}"""

    errno = errno.EIO


class SaveCutOff(SaveIncomplete):
    """save may be incomplete: the mount was cut off by force, and what programs wrote last may be missing"""


class EarlierIncomplete(SaveIncomplete):
    """save is incomplete: not all that programs had written was taken"""


class FilesIncomplete(SaveIncomplete):
    """save is incomplete: not all that was written to {0} was taken: {1}; write it anew or remove it"""


class NotUnderItsName(PramError):
    """save is not in {0}: {1}"""

    errno = errno.EIO


class SaveFailed(PramError):
    """save failed: {0}; the previous save (generation {1}) stands"""

    errno = errno.EIO


class ImageOverwritten(SaveFailed):
    """save failed: another program has {1} {0}, no save there can be trusted; use: pramfs save --to PATH"""


class TakenOver(ImageOverwritten):
    """save failed: {1} has taken {0} over, nothing is saved there any more; use: pramfs save --to PATH"""


class MoveFailed(SaveFailed):
    """save to {0} failed: {1}; the mount goes on with {2}, where generation {3} stands"""


class NothingSaved(MoveFailed):
    """save to {0} failed: {1}; another program has changed {2}, so nothing is saved"""
