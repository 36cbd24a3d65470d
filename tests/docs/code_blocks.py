"""The blocks of code in Markdown, and the commands in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.checkout import CHECKOUT

_LIST_ITEM = re.compile(r"(\d+\.|[-*]) +")
_INDENT = 4  # columns that make a paragraph code, counted from the text of the list item it is in
_FENCE = "```"
PROMPT = "$ "  # a block that begins with it is a transcript: commands, and what they print


class Line(NamedTuple):
    """A line of a block: where it stands, and its text without the block's indentation."""

    place: str
    text: str


Block = list[Line]


def documents() -> list[Path]:
    """The README and all of docs, as paths below the repository."""
    found = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
    return [path.relative_to(CHECKOUT) for path in found]


def blocks(document: Path) -> list[Block]:
    """The blocks of code of a document, indented or fenced, in order."""
    found: list[Block] = [[]]
    before = ""
    column = 0  # of the text of the list item that this line is in
    fenced = False
    for number, line in enumerate((CHECKOUT / document).read_text().splitlines(), start=1):
        is_fence = line.strip().startswith(_FENCE)
        fenced ^= is_fence
        if line and not line[0].isspace():
            item = _LIST_ITEM.match(line)
            column = item.end() if item else 0
        indent = len(line) - len(line.lstrip())
        is_code = indent >= column + _INDENT and (not before.strip() or bool(found[-1]))
        if not is_fence and (fenced or (line.strip() and is_code)):
            found[-1].append(Line(f"{document}:{number}", line))
        elif (line.strip() or is_fence) and found[-1]:
            found.append([])
        before = line
    return [_dedented(block) for block in found if block]


def is_transcript(block: Block) -> bool:
    """Whether the block shows what commands print, too."""
    return block[0].text.startswith(PROMPT)


def commands(block: Block) -> Iterator[tuple[Line, str]]:
    """Each command of a block: its first line, and all of it, without a comment at its end."""
    start: Line | None = None
    text = ""
    if is_transcript(block):
        typed = [line for line in block if line.text.startswith(PROMPT)]
        block = [line._replace(text=line.text.removeprefix(PROMPT)) for line in typed]
    for line in block:
        start = start or line
        text += re.sub(r"(^|\s+)# .*", "", line.text)
        if text.endswith("\\"):
            text = text[:-1]
        elif text:
            yield start, text
            start, text = None, ""
        else:
            start = None


def _dedented(block: Block) -> Block:
    margin = min(len(line.text) - len(line.text.lstrip()) for line in block if line.text.strip())
    return [Line(line.place, line.text[margin:].rstrip()) for line in block]
