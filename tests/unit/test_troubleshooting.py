"""docs/troubleshooting.md explains messages that the program really has."""

import ast
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


# --- and every message that the program has is explained ------------------------------------------

LONG_ENOUGH = 12  # for words that a user would search the page for


def pieces(message: str) -> list[str]:
    """The parts of a message that are the same every time, and that tell it from others."""
    parts = [part.strip(" '().,") for part in re.split(r"…|[;:]", message)]
    return [part for part in parts if len(part) >= LONG_ENOUGH] or [max(parts, key=len)]


def is_explained(message: str) -> bool:
    return any(piece in explained for piece in pieces(message) for explained in messages())


def templates() -> list[str]:
    classes = (cls for _, cls in inspect.getmembers(errors, inspect.isclass))
    texts = [cls.__doc__ or "" for cls in classes if issubclass(cls, errors.PramError)]
    return [re.sub(r"\{[^}]*\}", "…", " ".join(text.split())) for text in texts if text != "{0}"]


@pytest.mark.parametrize("message", templates())
def test_every_kind_of_error_is_explained(message: str) -> None:
    assert is_explained(message)


def failures_of_umount() -> list[str]:
    page = (CHECKOUT / "docs/umount.md").read_text()
    lines = re.findall(r"^\| (?:32|64) \| `([^`]+)` \|", page, re.MULTILINE)
    # What follows "but" is a message that others have, too.
    return [re.sub(r"/mnt|IMAGE|WHY|\bN\b|, but (the )?", "…", line) for line in lines]


@pytest.mark.parametrize("message", failures_of_umount())
def test_every_failure_of_umount_is_explained(message: str) -> None:
    assert is_explained(message)


def literal(node: ast.expr) -> str:
    """The text of a string in the source, with … for what is put into it; "" if it is no string."""
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(value) or "…" for value in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub("%[sd]", "…", node.value)
    return ""


def is_told(call: ast.Call) -> bool:
    """Whether a call makes an error, or a line in the log that is no mere information."""
    if isinstance(call.func, ast.Attribute):
        of_log = isinstance(call.func.value, ast.Name) and call.func.value.id == "log"
        return of_log and call.func.attr in {"warning", "error", "exception"}
    return isinstance(call.func, ast.Name) and call.func.id in {"PramError", "SystemFault"}


def told() -> list[str]:
    """The messages that are written where they are raised. Usage errors explain themselves."""
    paths = sorted((CHECKOUT / "pramfs").rglob("*.py"))
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.args and is_told(node)]
    texts = {literal(call.args[0]) for call in calls}
    return sorted(text for text in texts if re.search(r"\w{3}", text) and pieces(text) != ["the"])


@pytest.mark.parametrize("message", told())
def test_every_other_message_is_explained(message: str) -> None:
    assert is_explained(message)
