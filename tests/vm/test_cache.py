"""The cache of what the virtual machine is made of. Builds no machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT
from tests.vm import cache
from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64
from tests.vm.kernel import Kernel


class Workshop:
    """Builds an artefact from two files, and counts how often."""

    def __init__(self, place: Path) -> None:
        self.inputs = [place / "first", place / "second"]
        for path in self.inputs:
            path.write_text(path.name)
        self.built = 0

    def artefact(self) -> Path:
        return cache.artefact("thing", self.inputs, self._build)

    def _build(self, result: Path) -> None:
        self.built += 1
        (result / "made").write_text("".join(path.read_text() for path in self.inputs))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workshop(tmp_path)


def content(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def another_process(workshop: Workshop, program: str) -> "subprocess.Popen[str]":
    """A process that runs this with a function `artefact`, which gets the workshop's thing from the cache."""
    prelude = (
        "import sys; from pathlib import Path; from tests.vm import cache\n"
        "inputs = [Path(name) for name in sys.argv[1:]]\n"
        "artefact = lambda build: cache.artefact('thing', inputs, build)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-u", "-c", prelude + program, *workshop.inputs],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def use_from_another_process(workshop: Workshop) -> "subprocess.Popen[str]":
    """A process that has got the artefact from the cache, and uses it until it is killed."""
    program = "artefact(lambda result: None); print('has it'); sys.stdin.read()"
    user = another_process(workshop, program)
    assert line(user) == "has it\n"
    return user


def test_what_was_built_is_used_again(workshop: Workshop) -> None:
    assert not cache.has("thing", workshop.inputs)
    first = workshop.artefact()
    assert cache.has("thing", workshop.inputs)
    assert (first / "made").read_text() == "firstsecond"
    assert workshop.artefact() == first
    assert workshop.built == 1


@pytest.mark.parametrize("changed", [0, 1])
def test_a_change_of_any_input_has_it_built_anew(workshop: Workshop, changed: int) -> None:
    before = workshop.artefact()
    workshop.inputs[changed].write_text("other")
    after = workshop.artefact()
    assert after != before
    assert "other" in (after / "made").read_text()
    assert workshop.built == 2


def test_what_nobody_uses_any_more_is_removed(workshop: Workshop) -> None:
    user = use_from_another_process(workshop)
    (used,) = cache.directory().glob("thing-*")
    workshop.inputs[0].write_text("other")
    workshop.artefact()
    assert used.is_dir(), "another process uses it"
    user.kill()
    user.communicate()
    workshop.inputs[0].write_text("a third")
    last = workshop.artefact()
    assert not used.exists()
    assert last.is_dir()


def test_of_two_that_want_the_same_at_once_one_builds_it(workshop: Workshop) -> None:
    program = (
        "print('asks')\n"
        "artefact(lambda result: (print('builds'), sys.stdin.readline()))\n"
        "print('has it')"
    )
    first = another_process(workshop, program)
    assert line(first) == "asks\n"
    assert line(first) == "builds\n"
    second = another_process(workshop, program)
    assert line(second) == "asks\n"
    assert first.communicate("\n")[0] == "has it\n"
    assert second.communicate("\n")[0] == "has it\n"


def test_a_build_that_failed_leaves_nothing_behind(workshop: Workshop) -> None:
    def fail(result: Path) -> None:
        (result / "half").touch()
        raise OSError

    with pytest.raises(OSError, match=r"^$"):
        cache.artefact("thing", workshop.inputs, fail)
    assert content(cache.directory()) == ["thing.lock"]
    assert content(workshop.artefact()) == ["made"]


def test_a_build_that_was_killed_is_cleared_away(workshop: Workshop) -> None:
    (cache.directory() / "building-thing.abc/result").mkdir(parents=True)
    wanted = workshop.artefact()
    assert content(cache.directory()) == [wanted.name, "thing.lock"]


def test_a_removal_that_was_interrupted_leaves_nothing_that_would_be_used(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_half(path: Path, **options: Any) -> None:
        if not (Path(path) / "half").exists():
            return remove(path, **options)
        (path / "half").unlink()
        raise KeyboardInterrupt

    remove = shutil.rmtree
    user = use_from_another_process(workshop)
    (unused,) = cache.directory().glob("thing-*")
    (unused / "half").touch()
    user.kill()
    user.communicate()
    workshop.inputs[0].write_text("other")
    with monkeypatch.context() as patch:
        patch.setattr("tests.vm.cache.shutil.rmtree", remove_half)
        with pytest.raises(KeyboardInterrupt):
            workshop.artefact()
    workshop.inputs[0].write_text("first")
    assert content(workshop.artefact()) == ["made"]


def test_all_that_goes_into_the_guest_is_an_input_of_it(tmp_path: Path) -> None:
    debian = Debian("bookworm", "amd64", "linux-image-amd64", (), ())
    recipe = Recipe("any", debian, AMD64, (tmp_path / "extra",))
    inputs = {*recipe.debian_inputs(), *recipe.package_inputs(), *recipe.pramfs_inputs()}
    library = CHECKOUT / "tests/vm"
    assert inputs >= {*(CHECKOUT / "pramfs").rglob("*.py")}
    assert inputs >= {path for path in (library / "files").iterdir() if path.is_file()}
    assert inputs >= {
        library / "debian.py",
        library / "guest.py",
        library / "packages.py",
        tmp_path / "extra",
    }
    assert inputs >= {CHECKOUT / "requirements/build.lock", CHECKOUT / "requirements/runtime.lock"}
    assert inputs >= {repr(debian), AMD64.agent_port}


def test_the_options_of_a_kernel_are_inputs_of_it_and_of_the_guest(tmp_path: Path) -> None:
    options = tmp_path / "options"
    options.write_text("CONFIG_ONE=y\n")
    kernel = Kernel("trixie", "linux-source-7.3", options)
    recipe = Recipe("any", Debian("trixie", "amd64", kernel, ()), AMD64)
    before = cache.digest(kernel.inputs()), cache.digest(recipe.debian_inputs())
    options.write_text("CONFIG_TWO=y\n")
    after = cache.digest(kernel.inputs()), cache.digest(recipe.debian_inputs())
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_guest_is_the_same_wherever_the_checkout_is(tmp_path: Path) -> None:
    digests = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "options").touch()
        kernel = Kernel("trixie", "linux-source-7.3", tmp_path / name / "options")
        recipe = Recipe("any", Debian("trixie", "amd64", kernel, ()), AMD64)
        digests.add(cache.digest(recipe.debian_inputs()))
    assert len(digests) == 1


def test_the_cache_is_outside_of_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache/pramfs"
