"""docs/troubleshooting.md explains messages that the program really has."""

import inspect
import re

import pytest

from pramfs import errors
from tests.support.checkout import CHECKOUT

TABLE = (CHECKOUT / "docs/troubleshooting.md").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((CHECKOUT / "pramfs").rglob("*.py")))

OF_OTHERS = {
    "Transport endpoint is not connected",
    "No space left on device",
    "Resource temporarily unavailable",
    "umount: …: target is busy.",
    "Unmounting timed out. Terminating.",
    "Stopping timed out. Killing.",
    "A stop job is running for …",
}


def messages() -> list[str]:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")][2:]
    cells = [row.split(" | ")[0] for row in rows]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def fixed_parts(message: str) -> list[str]:
    """The parts of a message that are the same every time, long enough to be told from others."""
    return [part for part in re.split(r"…|\b[A-Z]+\b|[(){}:'=;,]", message) if len(part) > 8]


@pytest.mark.parametrize(
    "message", [text for text in messages() if text not in OF_OTHERS and "/" not in text]
)
def test_the_message_is_in_the_program(message: str) -> None:
    joined = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
    for part in fixed_parts(message):
        assert part.strip() in joined


TEMPLATES = [
    cls.__doc__ or ""
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.PramError) and re.sub(r"[{}0]", "", cls.__doc__ or "")
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_error_is_explained(template: str) -> None:
    # Numbers and names vary; users look for the words between them.
    fixed = [part.strip() for part in re.split(r"(?:0x)?\{[^}]*\}|[,;:()']", template)]
    explained = " ".join(messages())
    assert any(part in explained for part in fixed if len(part) >= len("busy"))
