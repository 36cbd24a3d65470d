"""What the demo prints: numbered steps with their times, for a terminal and for a log alike.

A step is printed when it ends, with how long it took. A terminal shows it while it runs, too, with
how far it is, and gets colours, unless NO_COLOR says otherwise.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MIB = 1 << 20

_WIDTH_MAX = 100
_REDRAW_SECONDS = 0.05
_CLEAR_LINE = "\r\x1b[K"
_BOLD, _DIM, _RED, _GREEN = "1", "2", "31;1", "32;1"


class Step:
    """A step that runs. Its lines are kept until it ends."""

    def __init__(self, story: "Story", title: str) -> None:
        self.title = title
        self.began = time.monotonic()
        self.lines: list[str] = []
        self._story = story
        self._expected = 0
        self._done = 0
        self._drawn = 0.0

    @property
    def seconds(self) -> float:
        """How long the step has taken so far."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """Add lines."""
        self.lines += text.splitlines()

    def command(self, arguments: Sequence[str]) -> None:
        """Add a command as one would type it."""
        self.lines.append(self._story.paint(_BOLD, "$ " + shlex.join(arguments)))

    def output(self, text: str) -> None:
        """Add what a command has printed."""
        self.lines += [self._story.paint(_DIM, line) for line in text.splitlines()]

    def expect(self, length: int) -> None:
        """Say how many bytes the progress will add up to."""
        self._expected = length

    def progress(self, length: int) -> None:
        """Count bytes that have been dealt with."""
        self._done += length
        if time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._drawn = time.monotonic()
            self._story.draw(self.title, f"{self._done // MIB} of {self._expected // MIB} MiB")


class Story:
    """Numbered steps on standard output."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self._live and not os.environ.get("NO_COLOR")
        columns = shutil.get_terminal_size().columns if self._live else _WIDTH_MAX
        self._width = min(columns - 1, _WIDTH_MAX)
        self._steps = 0
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Time what happens inside, and print it when it ends, however it does."""
        self._steps += 1
        step = Step(self, title)
        self.draw(title, "…")
        try:
            yield step
        except BaseException:
            self._print_step(step, self.paint(_RED, "failed"), len("failed"))
            raise
        seconds = f"{step.seconds:.2f} s"
        self._print_step(step, seconds, len(seconds))

    def title(self, text: str) -> None:
        """Print the first line."""
        print(self.paint(_BOLD, text), flush=True)

    def appendix(self, title: str, text: str) -> None:
        """Print what belongs to no step."""
        print(f"\n{self.paint(_BOLD, title)}")
        for line in text.splitlines():
            print(f"    {self.paint(_DIM, line)}")

    def passed(self, text: str) -> None:
        """Print the last line of a demo that went well."""
        seconds = f"{time.monotonic() - self._began:.1f} s"
        print(f"\n{self.paint(_GREEN, 'PASS')}  {text}; {seconds} in all", flush=True)

    def failed(self, text: str) -> None:
        """Print the last line of a demo that did not."""
        print(f"\n{self.paint(_RED, 'FAIL')}  {text}", flush=True)

    def draw(self, title: str, note: str) -> None:
        """Show a running step in the last line of a terminal."""
        if self._live:
            room = self._width - 4 - len(note)
            line = f"{self._steps:2}  {title[:room]:<{room}}"
            print(f"{_CLEAR_LINE}{line}{note}", end="", flush=True)

    def paint(self, colour: str, text: str) -> str:
        """Return the text with a colour, where there are colours."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def _print_step(self, step: Step, note: str, note_width: int) -> None:
        room = max(self._width - 4 - note_width, len(step.title) + 2)
        title = self.paint(_BOLD, step.title) + " " * (room - len(step.title))
        print(f"{_CLEAR_LINE if self._live else ''}\n{self._steps:2}  {title}{note}")
        for line in step.lines:
            print(f"    {line}")
        sys.stdout.flush()
