"""Read a stream in a place as if it were one file: pieces are fetched ahead, and each is verified."""

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from pramfs.errors import DamagedInPlace, DroppedMeanwhile, PramError
from pramfs.remote.manifest import Manifest, digest_of, manifest_name, piece_name
from pramfs.remote.place import Place

_AHEAD = 4  # pieces
_ATTEMPTS = 2  # for a piece that came damaged


class PieceReader(io.RawIOBase):
    """The bytes of a stream. Close it: threads fetch for it."""

    def __init__(self, place: Place, stream: Manifest) -> None:
        super().__init__()
        self._place = place
        self._stream = stream
        self._pool = ThreadPoolExecutor(_AHEAD, "pramfs-download")
        self._coming: deque[Future[bytes]] = deque()
        self._asked = 0
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # of any buffer, there
        """Return how many bytes there were, 0 at the end. Raises PlaceFailed, or what `_fetch` does."""
        if not self._piece:
            self._ask()
            if not self._coming:
                return 0
            self._piece = memoryview(self._coming.popleft().result())
            self._ask()
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._place.give_up()
            self._pool.shutdown(wait=False, cancel_futures=True)
            if not all(one.done() for one in self._coming):
                self._place.close()
            self._pool.shutdown(wait=True)
            self._place.take_heart()
        super().close()

    def _ask(self) -> None:
        while len(self._coming) < _AHEAD and self._asked < len(self._stream.pieces):
            self._coming.append(self._pool.submit(self._fetch, self._asked))
            self._asked += 1

    def _fetch(self, number: int) -> bytes:
        """Return a piece. Raises PlaceFailed, DamagedInPlace, DroppedMeanwhile."""
        name = piece_name(self._stream.id, number)
        for _ in range(_ATTEMPTS):
            piece = self._place.get_if_there(name)
            if piece is None:
                raise self._missing(name)
            if digest_of(piece) == self._stream.pieces[number]:
                return piece
        raise DamagedInPlace(self._place.name, name, "its bytes are not those that were sent")

    def _missing(self, name: str) -> PramError:
        """Return what has become of a piece: a sender that drops a stream removes its manifest first."""
        if self._place.get_if_there(manifest_name(self._stream.id)) is None:
            return DroppedMeanwhile(self._place.name, self._stream.name, self._stream.id)
        return DamagedInPlace(self._place.name, name, "it is missing")
