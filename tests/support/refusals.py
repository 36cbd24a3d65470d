"""Calls that a tree refuses, and with which errno."""

import contextlib
import os
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    """The block raises an OSError with that errno."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number
