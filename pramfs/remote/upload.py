"""Send a stream to a place: in pieces, several at a time, and then the manifest that makes it a stream."""

import contextlib
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from pramfs import __version__
from pramfs.errors import NoBaseInPlace, PlaceFailed, PramError
from pramfs.remote.manifest import (
    PIECE_BYTES,
    Manifest,
    digest_of,
    encode,
    manifest_name,
    new_id,
    piece_name,
)
from pramfs.remote.place import Place
from pramfs.storage.arena import Progress
from pramfs.stream.encode import Data
from pramfs.stream.send import Sending

PARALLEL = 4
_INTERRUPTED_S = 5


class PieceWriter:
    """Takes the bytes of a stream and puts pieces of them into a place, from threads.

    A context manager: what went out is taken back if the body fails.
    """

    def __init__(self, place: Place, stream: str, piece_bytes: int = PIECE_BYTES) -> None:
        self.size = 0
        self.digests: list[str] = []
        self._place = place
        self._stream = stream
        # Always the same: memory that is new for each piece would take longer than copying it.
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(PARALLEL):
            self._free.put(bytearray(piece_bytes))
        self._piece = bytearray(piece_bytes)
        self._filled = 0
        self._pool = ThreadPoolExecutor(PARALLEL, "pramfs-upload")
        self._running: list[Future[None]] = []

    def write(self, parts: Sequence[Data]) -> int:
        """Take all of it, as os.writev does. Waits for room. Raises PlaceFailed if a piece has failed."""
        taken = 0
        for part in parts:
            view = memoryview(part).cast("B")
            while len(view):
                some = view[: len(self._piece) - self._filled]
                self._piece[self._filled : self._filled + len(some)] = some
                self._filled += len(some)
                taken += len(some)
                view = view[len(some) :]
                if self._filled == len(self._piece):
                    self._send_piece()
        return taken

    def finish(self) -> None:
        """Send what is left, and wait for all of it. Raises PlaceFailed."""
        if self._filled:
            self._send_piece()
        for future in self._running:
            future.result()

    def __enter__(self) -> "PieceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._place.give_up()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, KeyboardInterrupt):
            self._end_soon()
        self._pool.shutdown(wait=True)
        if error is not None:
            # After these the server is gone, or the user waits: each removal is tried once.
            if not isinstance(error, PlaceFailed | KeyboardInterrupt):
                self._place.take_heart()
            with contextlib.suppress(PramError):
                discard(self._place, self._stream, len(self.digests))
            self._place.take_heart()

    def _end_soon(self) -> None:
        """Let the server take what is under way, so that it can be removed, but not wait long for that."""
        try:
            wait([one for one in self._running if not one.cancelled()], _INTERRUPTED_S)
        finally:
            if not all(one.done() for one in self._running):
                self._place.close()

    def _send_piece(self) -> None:
        self._running = [future for future in self._running if not _is_done(future)]
        self.digests.append("")  # until the piece is there
        self.size += self._filled
        future = self._pool.submit(self._put, len(self.digests) - 1, self._piece, self._filled)
        self._running.append(future)
        self._piece, self._filled = self._free.get(), 0

    def _put(self, number: int, piece: bytearray, size: int) -> None:
        try:
            with memoryview(piece)[:size] as data:
                self.digests[number] = digest_of(data)
                self._place.put(piece_name(self._stream, number), data)
        finally:
            self._free.put(piece)


def upload(
    place: Place,
    sending: Sending,
    base: Manifest | None = None,
    compress: Callable[[Data], bytes] | None = None,
    progress: Progress = lambda pages: None,
    piece_bytes: int = PIECE_BYTES,
    *,
    after_ns: int = 0,
) -> Manifest:
    """Send a tree to a place, whose stream `base` has what it builds on, and whose newest is of `after_ns`.

    Raises PlaceFailed, NoBaseInPlace, DamagedPage or another PramError; the place has no new stream then.
    """
    header = sending.header
    stream = new_id(header.id)
    with PieceWriter(place, stream, piece_bytes) as writer:
        sending.to(writer.write, progress, compress)
        writer.finish()
        manifest = Manifest(
            id=stream,
            name=sending.name,
            identity=header.identity.hex(),
            entries=header.entries,
            pages=header.pages,
            base=base.id if base is not None else "",
            base_name=sending.base_name,
            base_identity=base.identity if base is not None else "",
            base_entries=header.base_pages,
            compressed=compress is not None,
            sent_ns=max(time.time_ns(), after_ns + 1),  # the clock may have been put back
            sent_by=f"pramfs {__version__}",
            size=writer.size,
            piece_bytes=piece_bytes,
            pieces=tuple(writer.digests),
        )
        if base is not None and place.get_if_there(manifest_name(base.id)) is None:
            raise NoBaseInPlace(place.name, sending.base_name)
        place.put(manifest_name(stream), encode(manifest))
    return manifest


def discard(place: Place, stream: str, pieces: int) -> None:
    """Remove a stream: first the manifest, so that nothing looks whole that is not. Raises PlaceFailed."""
    place.remove(manifest_name(stream))
    names = [piece_name(stream, number) for number in range(pieces)]
    with ThreadPoolExecutor(PARALLEL, "pramfs-remove") as pool:
        for _ in pool.map(place.remove, names):
            pass
    place.remove_folder(stream)


def _is_done(future: "Future[None]") -> bool:
    """Return whether a piece is there. Raises PlaceFailed if it could not be sent."""
    if not future.done():
        return False
    future.result()
    return True
