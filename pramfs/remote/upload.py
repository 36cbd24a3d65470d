"""Send a stream to a place: in pieces, several at a time, and then the manifest that makes it a stream."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from pramfs import __version__
from pramfs.errors import NoBaseInPlace, PramError
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


class PieceWriter:
    """Takes the bytes of a stream and puts pieces of them into a place, from threads.

    A context manager: what went out is taken back if the body fails.
    """

    def __init__(self, place: Place, stream: str, piece_bytes: int = PIECE_BYTES) -> None:
        self.size = 0
        self.digests: list[str] = []
        self._place = place
        self._stream = stream
        self._piece_bytes = piece_bytes
        self._piece = bytearray()
        self._pool = ThreadPoolExecutor(PARALLEL, "pramfs-upload")
        self._room = threading.Semaphore(PARALLEL)
        self._running: list[Future[None]] = []

    def write(self, parts: Sequence[Data]) -> int:
        """Take all of it, as os.writev does. Waits for room. Raises PlaceFailed if a piece has failed."""
        taken = 0
        for part in parts:
            view = memoryview(part).cast("B")
            while len(view):
                some = view[: self._piece_bytes - len(self._piece)]
                self._piece += some
                taken += len(some)
                view = view[len(some) :]
                if len(self._piece) == self._piece_bytes:
                    self._send_piece()
        return taken

    def finish(self) -> None:
        """Send what is left, and wait for all of it. Raises PlaceFailed."""
        if self._piece:
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
        self._pool.shutdown(wait=True, cancel_futures=True)
        if error is not None:
            self._place.take_heart()
            with contextlib.suppress(PramError):
                discard(self._place, self._stream, len(self.digests))

    def _send_piece(self) -> None:
        piece, self._piece = bytes(self._piece), bytearray()
        name = piece_name(self._stream, len(self.digests))
        self.digests.append(digest_of(piece))
        self.size += len(piece)
        self._room.acquire()
        self._running = [future for future in self._running if not _is_done(future)]
        future = self._pool.submit(self._place.put, name, piece)
        future.add_done_callback(lambda _: self._room.release())
        self._running.append(future)


def upload(
    place: Place,
    sending: Sending,
    base: Manifest | None = None,
    compress: Callable[[Data], bytes] | None = None,
    progress: Progress = lambda pages: None,
    piece_bytes: int = PIECE_BYTES,
) -> Manifest:
    """Send a tree to a place, whose stream `base` has what it builds on.

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
            sent_ns=time.time_ns(),
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
