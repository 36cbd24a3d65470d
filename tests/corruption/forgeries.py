"""What a hostile hand writes into an image: fields with other values, and true checksums over them."""

import random
from collections.abc import Iterator

from pramfs.storage.layout import PAGE_SIZE
from tests.corruption.sample_image import SampleImage

# Values that an attacker would put into a field.
TEMPTING = (0, 1, 2, 3, 79, 80, 81, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 169, 170, 4096)


def forgeries(whole: SampleImage, rng: random.Random) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Pages with fields changed, without end: what was done, and the pages."""
    frames = (*whole.supers[:1], *whole.metadata * 3, *whole.stream * 3, whole.data[0])
    while True:
        pages: dict[int, bytes] = {}
        told = []
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            pfn = rng.choice(frames)
            page = bytearray(pages.get(pfn, whole.page(pfn)))
            at, value = _change_field(page, rng)
            told.append(f"pfn {pfn:x} at {at}: {value}")
            pages[pfn] = bytes(page)
        yield "; ".join(told), pages


def _change_field(page: bytearray, rng: random.Random) -> tuple[int, str]:
    """Change a field of 1, 2, 4 or 8 bytes among those that are used."""
    used = max(64, len(bytes(page).rstrip(b"\0")))
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(0, min(used + 16, PAGE_SIZE - 8))
    if rng.random() < 0.7:
        at &= ~(width - 1)
    old = int.from_bytes(page[at : at + width], "little")
    new = rng.choice(
        (*TEMPTING, old + 1, old - 1, old << 8, old ^ 1 << rng.randrange(8 * width), -1)
    )
    page[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")
    return at, f"{old:#x} -> {new:#x}"
