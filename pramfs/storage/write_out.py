"""Write an image's pages to its medium while more of them are being copied, so that progress is the medium's.

Otherwise a save would copy everything into the kernel's page cache within moments, and then wait for one long
sync of which nobody knows how far it is.
"""

from collections.abc import Callable

from pramfs.storage.image import Image

_WINDOW_FRAMES = 1024  # 4 MiB: at most two of them are on their way to the medium


class WriteOut:
    """Follows the pages that a save has written to an image, in order; reports them when they are out.

    Nothing is durable before `Image.sync`. A save that is smaller than a window is left to that as a whole.
    """

    def __init__(self, image: Image, progress: Callable[[int], None]) -> None:
        self._image = image
        self._progress = progress
        self._start = self._end = self._frames = 0  # of what is being collected
        self._before = (0, 0, 0)  # of what is on its way

    def add(self, pfn: int, frames: int) -> None:
        """Note that these frames have been written. Raises OSError when the medium has failed."""
        if not self._frames:
            self._start = pfn
        self._end = pfn + frames
        self._frames += frames
        if self._frames >= _WINDOW_FRAMES:
            self._next_window()

    def finish(self) -> None:
        """Report the rest. Raises OSError when the medium has failed."""
        _, _, before = self._before
        if before and self._frames:
            self._next_window()
        self._wait()
        if self._frames:
            self._progress(self._frames)

    def _next_window(self) -> None:
        self._image.start_write_out(self._start, self._end - self._start)
        self._wait()
        self._before = (self._start, self._end, self._frames)
        self._frames = 0

    def _wait(self) -> None:
        start, end, frames = self._before
        if frames:
            self._image.wait_for_write_out(start, end - start)
            self._progress(frames)
        self._before = (0, 0, 0)
