"""How fast an image's medium takes pages, and so how long the next save will take."""

_PAGE_BYTES = 4096
_ENOUGH_BYTES = 4 << 20  # less says more of a single sync than of the medium


class Pace:
    """The speed of a medium, measured by the last save or write-back that wrote enough to tell."""

    def __init__(self) -> None:
        self._seconds_per_page = 0.0  # 0: not known yet

    def note(self, pages: int, seconds: float) -> None:
        """Note how long it took to write so many pages."""
        if pages * _PAGE_BYTES >= _ENOUGH_BYTES:
            self._seconds_per_page = seconds / pages

    def seconds_for(self, pages: int) -> int:
        """Return how long it takes to write so many pages, -1 if that is not known."""
        return round(pages * self._seconds_per_page) if self._seconds_per_page else -1

    def pages_in(self, seconds: float) -> int:
        """Return how many pages can be written in that time, -1 if that is not known."""
        return round(seconds / self._seconds_per_page) if self._seconds_per_page else -1
