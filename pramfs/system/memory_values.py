"""Sizes and addresses in the notation of kernel parameters: 64M, 0x100000, 4G."""

import math
import re
from fractions import Fraction

_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
# At most 64 bits: int() refuses to read numbers of thousands of digits.
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([kKmMgGtTpPeE]?)")
# Notations of other programs: 1.5G, 1,5G, 10 G, 1TB, 1GiB.
_FREE_FORM = re.compile(r"\s*([0-9]{1,20})(?:[.,]([0-9]{1,20}))?\s*([kKmMgGtTpPeE]?)i?[bB]?\s*")


def memparse(text: str) -> int:
    """Return the bytes that `text` denotes: decimal or 0x hex, with a binary suffix K M G T P E.

    As memparse() of the kernel. Raises ValueError, with an example of the notation, for anything else.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        rule = "a whole number with a suffix K M G T P E or none"
        raise ValueError(f"memory value expected, not '{text}': {rule}{_example(text)}")
    return _value_bytes(match)


def leading_value(text: str) -> tuple[int, str]:
    """Return the bytes that the start of `text` denotes, and the rest. Raises ValueError for none."""
    match = _NUMBER.match(text)
    if match is None:
        raise ValueError("memory value expected")
    return _value_bytes(match), text[match.end() :]


def _example(text: str) -> str:
    """Return a valid memory value that may have been meant by an invalid one, rounded up."""
    match = _FREE_FORM.fullmatch(text)
    if match is None:
        return ""
    whole, decimals, suffix = match.groups()
    if not decimals:
        return f", such as {whole}{suffix.upper()}"
    below = dict(zip("KMGTPE", " KMGTP", strict=True)).get(suffix.upper(), "")
    number = Fraction(f"{whole}.{decimals}") * (1024 if below else 1)
    return f", such as {math.ceil(number)}{below.strip()}"


def _value_bytes(match: re.Match[str]) -> int:
    digits, suffix = match.groups()
    # Base 0 of C would read a leading 0 as octal, but nobody who writes 0128M means that.
    value = int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits)
    return value << _SUFFIXES[suffix.upper()]
