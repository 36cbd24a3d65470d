"""Look whether another program or machine has changed an image, without waiting long for its device."""

import threading

from pramfs.errors import DeviceGone, DeviceSilent, ImageOverwritten, PramError
from pramfs.pram.pram import Pram

_WAIT_S = 2.0


class ForeignChanges:
    """Looks at the image of a Pram for the thread that serves the mount, not while a super block is written.

    A network block device may not answer. So it is asked in a thread, of which there is never more than one.
    """

    def __init__(self, pram: Pram) -> None:
        self._pram = pram
        self._thread: threading.Thread | None = None
        self._found: PramError | None = None
        self._generation = 0  # of the save in force when the thread began to look

    def look(self) -> PramError | None:
        """Return why the next save will fail: ImageOverwritten, DeviceGone or DeviceSilent; else None.

        What a save says better is not told.
        """
        if not self._pram.image.is_shared:
            return self._look()
        if self._thread is None or not self._thread.is_alive():
            self._generation = self._pram.current.generation
            self._thread = threading.Thread(target=self._note, name="pramfs-look", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be started at present
                self._thread = None
                return self._look()
        self._thread.join(_WAIT_S)
        if self._thread.is_alive():
            return DeviceSilent(self._pram.image.path)
        # It may have seen the super block of a save that has been published meanwhile.
        return self._found if self._generation == self._pram.current.generation else None

    def _note(self) -> None:
        self._found = self._look()

    def _look(self) -> PramError | None:
        try:
            self._pram.publisher.require_untouched()
        except (ImageOverwritten, DeviceGone) as exc:
            return exc
        except (OSError, PramError):
            pass  # a save says what the medium is like
        return None
