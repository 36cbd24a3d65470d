"""How much memory is left for more pages, on this machine and in the control groups of this process."""

from pramfs.storage.layout import PAGE_SHIFT
from pramfs.system.memory_left import memory_left

_RESERVE_MAX_BYTES = 64 << 20
# What may be filled before somebody looks again: an eighth of what is left, within these bounds.
_STEP_MIN_FRAMES = 4096  # 16 MiB
_STEP_MAX_FRAMES = 65536
_AMPLE_FRAMES = 16384  # 64 MiB: enough for many writers that have waited


class MemoryRoom:
    """The memory that more pages may take, looked up now and then as they are written."""

    def __init__(self, reserve_min_bytes: int = 0) -> None:
        """Leave an eighth of the memory, at most 64 MiB, to others, and to what a save allocates.

        At least `reserve_min_bytes`, but of a memory that is small for that no more than a third.
        """
        self._reserve_min_bytes = reserve_min_bytes
        self._frames = 0  # that may be filled without another look

    def take(self, frames: int, spoken_for: int = 0) -> bool:
        """Take memory for that many frames; return False if so much would leave too little.

        `spoken_for` are frames that will take some later.
        """
        if frames > self._frames:
            room = max(0, self._room_frames() - spoken_for)
            step = min(max(room >> 3, _STEP_MIN_FRAMES), _STEP_MAX_FRAMES)
            self._frames = min(room, max(step, frames))
        if frames > self._frames:
            return False
        self._frames -= frames
        return True

    def is_short(self) -> bool:
        """Return whether there is so little that `take` may fail soon."""
        return self._room_frames() < _STEP_MIN_FRAMES

    def is_ample(self) -> bool:
        """Return whether there is so much that it is worth while to go on filling it."""
        return self._room_frames() >= _AMPLE_FRAMES

    def _room_frames(self) -> int:
        left = memory_left()
        reserve_bytes = min(_RESERVE_MAX_BYTES, left.total_bytes >> 3)
        if reserve_bytes < self._reserve_min_bytes:
            reserve_bytes = min(self._reserve_min_bytes, left.total_bytes // 3)
        return max(0, left.free_bytes - reserve_bytes) >> PAGE_SHIFT
