"""scripts/release builds what is released from a commit that is fit for it, and from no other."""

import email
import re
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from pramfs import __version__
from tests.mounted.harness import Outcome, run
from tests.support.checkout import copy_checkout

FIT = f"# Changelog\n\n## [Unreleased]\n\n## [{__version__}] - 2026-11-22\n\nAll that is new.\n"


class Repository:
    """A repository with the files of this checkout in one commit, and a changelog that is given."""

    def __init__(self, place: Path, changelog: str) -> None:
        self.place = place
        copy_checkout(place)
        (place / "CHANGELOG.md").write_text(changelog)
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--message=x")

    def git(self, *words: str) -> str:
        return run("git", *words, cwd=self.place).succeeded().text

    def release(self) -> Outcome:
        return run(self.place / "scripts/release", cwd=self.place)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository that was fit for a release, with what was built."""
    repository = Repository(tmp_path_factory.mktemp("release") / "pramfs", FIT)
    outcome = repository.release().succeeded()
    assert outcome.text.count("PASSED") == 2, outcome.text
    return repository


def test_the_source_distribution_has_all_that_git_has(released: Repository) -> None:
    with tarfile.open(released.place / f"dist/pramfs-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(released.git("ls-files").split("\n")[:-1]) <= names
    assert not [name for name in names if "__pycache__" in name]


def metadata(released: Repository) -> Message:
    with zipfile.ZipFile(released.place / f"dist/pramfs-{__version__}-py3-none-any.whl") as wheel:
        return email.message_from_bytes(wheel.read(f"pramfs-{__version__}.dist-info/METADATA"))


def test_the_wheel_says_what_it_is(released: Repository) -> None:
    told = metadata(released)
    assert told["Version"] == __version__
    assert told["License-Expression"] == "MIT"
    assert told["Author"] == "The pramfs authors"
    assert told["Description-Content-Type"] == "text/markdown"
    assert str(told.get_payload()).startswith("# pramfs")
    assert "kexec" in told["Keywords"]


def test_the_classifiers_name_each_python_that_is_tested(released: Repository) -> None:
    classifiers = "\n".join(metadata(released).get_all("Classifier") or ())
    assert re.findall(r"Python :: (3\.\d+)", classifiers) == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize(
    ("changelog", "words"),
    [
        ("# Changelog\n\n## [Unreleased]\n", ["has no version"]),
        (FIT.replace(__version__, "99.0"), [f"has version {__version__}", "[99.0] - 2026-11-22"]),
        (FIT.replace(" - 2026-11-22", ""), [f"the newest of CHANGELOG.md is: [{__version__}]"]),
        (FIT.replace("[Unreleased]\n", "[Unreleased]\n\n- News\n"), ["something as unreleased"]),
    ],
    ids=["no version", "another version", "no date", "unreleased changes"],
)
def test_a_changelog_that_does_not_fit_is_refused(
    tmp_path: Path, changelog: str, words: list[str]
) -> None:
    repository = Repository(tmp_path / "pramfs", changelog)
    repository.release().refused(1, *words)
    assert not (repository.place / "dist").exists()


def test_what_is_not_committed_is_not_released(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "pramfs", FIT)
    (repository.place / "pramfs/news.py").write_text("news = 1\n")
    repository.release().refused(1, "not committed")
    assert not (repository.place / "dist").exists()
