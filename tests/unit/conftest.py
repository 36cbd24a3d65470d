"""Compare every save that these tests make with one that copies nothing from the save before."""

from tests.support.compared_saves import compare_saves

compare_saves()
