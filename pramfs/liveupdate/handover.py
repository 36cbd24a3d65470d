"""Hand images over to the next kernel, as memory files in a session, and take them back if that is not to be.

The kernel takes only files without a name, and one whose last name is gone cannot get one again. So an image
is copied into a memory file where there is memory for both, and its own file stays; else it is moved. What is
done here is done in a keeper: the session and the memory files last as long as that process.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pramfs.control import kept
from pramfs.control.kept import KeptImage, State
from pramfs.errors import PramError, SystemFault, words_of
from pramfs.liveupdate import descriptor_store, keeper, manifest
from pramfs.liveupdate.keeper import Line
from pramfs.liveupdate.manifest import Carried, Manifest
from pramfs.liveupdate.transfer import Transfer
from pramfs.offline import kexec
from pramfs.pram import resize
from pramfs.storage.image import Image
from pramfs.system import luo

SESSION = "pramfs-images"

_MEMINFO = Path("/proc/meminfo")
_GO_AHEAD = "loaded"
_UNDO = "undo"
_POLL_S = 0.05
# What should stay free beside a copy, for the rest of the system and the new kernel.
_SPARE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Handed:
    """Images that are handed over, and will be taken back unless the new kernel is loaded."""

    lines: tuple[str, ...]  # one about each
    # They are not taken back as long as a program that loads the kernel has this open.
    descriptor: int


@contextlib.contextmanager
def handed_over(images: Sequence[Image]) -> Iterator[Handed]:
    """Hand the locked images over; the body loads the new kernel. If that fails, take them back.

    They are also taken back if this process ends before the body has. Raises PramError.
    """
    line = keeper.start(lambda line: _keep(images, line))
    try:
        yield Handed(tuple(line.answer()), line.descriptor)
        line.say(_GO_AHEAD)
        if line.answer() != _GO_AHEAD:
            raise PramError("the images were taken back meanwhile, by: pramfs kexec --undo")
    except BaseException as exc:
        line.say(_UNDO)
        try:
            line.answer()
        except SystemFault:
            pass  # it has taken them back, and ended
        except PramError as refused:
            if isinstance(exc, PramError):
                raise PramError(f"{exc}; {refused}") from exc
        raise
    finally:
        line.close()


def take_back() -> list[str]:
    """Have the new kernel unloaded and the images taken back; return their paths. Raises PramError."""
    state = kept.read_state()
    if state is None or not state.outgoing or not state.images or not kept.is_kept():
        raise PramError("nothing is handed over to the next kernel")
    kept.write_state(State(state.pid, outgoing=True, images=_with_reason(state.images, "")))
    os.kill(state.pid, signal.SIGTERM)
    while kept.is_kept():
        now = kept.read_state()
        told = next((image for image in now.images if image.reason), None) if now else None
        if told is not None:
            raise PramError(f"{told.path}: still kept by process {state.pid}: {told.reason}")
        time.sleep(_POLL_S)
    return [image.path for image in state.images]


class HandOver:
    """The images of one kexec, in memory files that a session holds."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images
        self._session: int | None = None
        self._is_stored = False  # with systemd, too
        self._taken: list[_Taken] = []

    def take(self) -> list[str]:
        """Make all images short and hand them over; return a line about each.

        Raises OSError or PramError; what was taken by then is for `take_back`.
        """
        self._session = luo.create_session(SESSION)
        carried, lines = [], []
        for token, image in enumerate(self._images, manifest.TOKEN + 1):
            taken = _Taken(image)
            self._taken.append(taken)
            carried.append(taken.hand_over(self._session, token))
            how = "moved" if taken.moving else "copied"
            lines.append(f"{image.path}, {image.size_bytes >> 10} KiB, {how}")
        described = manifest.write(Manifest(tuple(carried)))
        luo.preserve(self._session, described, manifest.TOKEN)
        os.close(described)  # the session has it
        self._is_stored = descriptor_store.put(self._session)
        if self._is_stored:
            lines.append(f"kept by systemd, too, for {descriptor_store.UNIT}")
        return lines

    def take_back(self) -> None:
        """Let all images be as they were. Raises OSError if one cannot be yet; may be called again."""
        if self._session is not None:
            if self._is_stored:
                descriptor_store.remove()
            os.close(self._session)  # first, because it fixes the sizes of the files
            self._session = None
        while self._taken:
            self._taken[-1].take_back()
            self._taken.pop()


class _Taken:
    """An image, and its way into a memory file."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._frames = image.frames
        self._way: Transfer | None = None
        self.moving = False

    def hand_over(self, session: int, token: int) -> Carried:
        image = self._image
        resize.shorten(image)
        carried = manifest.describe(image, token, self._frames)
        self.moving = _available_bytes() < image.size_bytes + _SPARE_BYTES
        memory = os.memfd_create("pramfs-image", os.MFD_CLOEXEC)
        self._way = Transfer(image.fileno(), memory, image.size_bytes, self.moving)
        self._way.run()
        luo.preserve(session, memory, token)
        return carried

    def take_back(self) -> None:
        """Bring back what was moved, and the length. Raises OSError; may be called again then."""
        if self._way is not None:
            self._way.undo()
            self._way = None
        with contextlib.suppress(PramError):  # too damaged to be saved: then it was not made short
            resize.lengthen(self._image, self._frames)


def _keep(images: Sequence[Image], line: Line) -> None:
    """Be the keeper: hand over, wait until the new kernel is loaded, then until it is to be undone."""
    lock = kept.try_to_lock()
    if lock is None:
        kept.refuse_next_kernel()
        raise PramError("another process has images on their way between two kernels; try again")
    hand_over = HandOver(images)
    kept.write_state(_state(images))
    try:
        line.say(hand_over.take())
        # Who has told this to take the images back has done so before any kernel is started with them.
        if line.hear() == _GO_AHEAD and not keeper.is_told_to_end():
            line.say(_GO_AHEAD)
            line.close()
            keeper.wait_for_end_signal()
    except Exception as exc:  # this process must not end as long as it has images
        refusal = (
            exc if isinstance(exc, PramError) else PramError(f"cannot hand over: {words_of(exc)}")
        )
        _take_back(hand_over, images, lock, line)
        raise refusal from exc
    _take_back(hand_over, images, lock, line)
    line.say(_UNDO)


def _take_back(hand_over: HandOver, images: Sequence[Image], lock: int, line: Line) -> None:
    """Take back, as often as it takes: it fails while others use the memory that it needs."""
    while True:
        try:
            kexec.unload()
            hand_over.take_back()
            break
        except Exception as exc:  # noqa: BLE001 - as above
            told = words_of(exc)
            line.say_refusal(PramError(f"cannot take back {images[0].path}: {told}"))
            with contextlib.suppress(OSError):
                kept.write_state(_state(images, told))
            line.close()
            keeper.wait_for_end_signal()
    with contextlib.suppress(OSError):
        kept.write_state(_state([]))
    # Before anybody is told, who may try again at once.
    for image in images:
        image.close()
    os.close(lock)


def _state(images: Sequence[Image], reason: str = "") -> State:
    return State(
        pid=os.getpid(),
        outgoing=True,
        images=tuple(
            KeptImage(os.path.realpath(image.path), image.size_bytes, reason) for image in images
        ),
    )


def _with_reason(images: Sequence[KeptImage], reason: str) -> tuple[KeptImage, ...]:
    return tuple(replace(image, reason=reason) for image in images)


def _available_bytes() -> int:
    """Return how much memory can be had without swapping."""
    for text in _MEMINFO.read_text().splitlines():
        if text.startswith("MemAvailable:"):
            return int(text.split()[1]) << 10
    return 0
