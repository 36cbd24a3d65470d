"""The tree with Debian's own servers: cached, and used, like the Debian of tests/distributions."""

from collections.abc import Iterator
from pathlib import Path

from tests.distributions import chroot
from tests.distributions.chroot import ENTER, Debian, bootstrap
from tests.vm import cache

SUITE = "bookworm"
PACKAGES = (
    *("swift-proxy", "swift-account", "swift-container", "swift-object"),
    *("memcached", "nginx-light", "openssh-server", "openssl"),
)

_INSTALL = """\
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d  # the packages start nothing
chmod +x /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" >/tmp/log 2>&1 ||
    { tail -n 30 /tmp/log >&2; exit 1; }
rm -f /etc/ssh/ssh_host_*  # each run makes its own
apt-get clean
"""


def servers(place: Path) -> Debian:
    """Debian with the servers; its /tmp is below `place`. Takes root. Raises FailureError."""
    return with_nothing(cache.artefact("remote-servers", _inputs(), _build) / "root", place)


def with_nothing(tree: Path, place: Path) -> Debian:
    """The tree without a checkout of pramfs; its /tmp is below `place`."""
    debian = Debian(tree, place / "checkout", place / "tmp")
    debian.checkout.mkdir(parents=True)
    debian.tmp.mkdir()
    debian.tmp.chmod(0o1777)
    return debian


def _inputs() -> Iterator[Path | str]:
    yield from (Path(__file__), Path(chroot.__file__), ENTER)


def _build(result: Path) -> None:
    bootstrap(SUITE, result / "root")
    debian = with_nothing(result / "root", result.parent / "place")
    debian.change("sh", "-ec", _INSTALL, "sh", *PACKAGES)
