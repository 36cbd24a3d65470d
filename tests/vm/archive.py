"""Debian's archive, asked by an apt of its own: for any release and architecture."""

from pathlib import Path

from tests.vm.shell import run

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"

_SOURCES = f"""\
deb [signed-by={{keys}}] {MIRROR} {{suite}} main
"""
# What a suite that is not released has not got.
_UPDATES = f"""\
deb [signed-by={{keys}}] {MIRROR}-security {{suite}}-security main
deb [signed-by={{keys}}] {MIRROR} {{suite}}-backports main
"""
_NOT_RELEASED = ("forky",)
_CONFIGURATION = """\
Dir::Etc::sourcelist "{place}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::State "{place}";
Dir::State::status "{place}/status";
Dir::Cache "{place}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


class Archive:
    """A release for an architecture. What is downloaded, and all that apt notes, is in `place`."""

    def __init__(self, suite: str, architecture: str, place: Path) -> None:
        self._place = place
        place.mkdir()
        (place / "status").touch()
        sources = _SOURCES if suite in _NOT_RELEASED else _SOURCES + _UPDATES
        (place / "sources.list").write_text(sources.format(keys=_KEYS, suite=suite))
        (place / "configuration").write_text(
            _CONFIGURATION.format(place=place, architecture=architecture)
        )
        self._apt("apt-get", "update")

    def download(self, *packages: str) -> list[Path]:
        """Download these packages and all that they depend on."""
        self._apt("apt-get", "install", "--yes", "--download-only", *packages)
        return sorted((self._place / "archives").glob("*.deb"))

    def download_kernel(self, metapackage: str) -> Path:
        """Download the kernel that a metapackage depends on, and nothing else."""
        depends = self._apt("apt-cache", "depends", metapackage).split()
        package = next(word for word in depends if word.startswith("linux-image-6"))
        return self.download_only(package)

    def download_only(self, package: str) -> Path:
        """Download this package, and nothing that it depends on."""
        self._apt("apt-get", "download", package)
        return next(self._place.glob(f"{package}_*.deb"))

    def _apt(self, *command: str) -> str:
        configured = f"APT_CONFIG={self._place}/configuration"
        return run("env", configured, command[0], "-qq", *command[1:], cwd=self._place)


def unpack(packages: list[Path], tree: Path) -> None:
    """Unpack packages into a directory. None of their programs runs."""
    tree.mkdir(exist_ok=True)
    for package in packages:
        run("dpkg-deb", "--extract", package, tree)
    if not (tree / "lib").exists():  # from Debian 13 on it is in base-files alone
        (tree / "lib").symlink_to("usr/lib")
