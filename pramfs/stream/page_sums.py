"""Verify many pages at once. A loop of Python over them would take longer than their checksums."""

import operator
from array import array
from collections.abc import Sequence
from itertools import compress, count
from typing import TYPE_CHECKING

from crc32c import crc32c

from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    Csums = array[int]
else:
    Csums = array


def pages_in(data: memoryview) -> list[memoryview]:
    """Return the pages of `data`, to be kept for a buffer that is filled again and again."""
    return [
        data[at : at + PAGE_SIZE]
        for at in range(0, len(data) >> PAGE_SHIFT << PAGE_SHIFT, PAGE_SIZE)
    ]


def damaged_page(pages: Sequence[memoryview], csums: Csums) -> int | None:
    """Return the position of the first page that has another checksum, None if all are right."""
    found = array("I", map(crc32c, pages))
    if found == csums:
        return None
    return next(compress(count(), map(operator.ne, found, csums)))
