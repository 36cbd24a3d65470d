"""Places of streams in the hands of a test: a URL, the environment that reaches it, and what is in there."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import botocore.session  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]

from tests.conftest import LONG
from tests.mounted.harness import DEADLINE_S, Outcome
from tests.remote.faulty_link import FaultyLink
from tests.remote.https_server import HttpsServer
from tests.remote.server_process import ServerMachine
from tests.remote.sshd import Sshd
from tests.remote.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift
from tests.support.checkout import CHECKOUT

HOST = "store"  # the name of the ssh server in ~/.ssh/config
FOLDER = "dump"
_CHANGED = """\
import sys
from pramfs.cli.entry import pramfs
from pramfs.remote import fsspec_store, keep, place, upload

{changes}
sys.exit(pramfs())
"""
_HURRIED = """\
place._WAITS_S = (0.1,) * 4
upload._INTERRUPTED_S = 1
"""
_IMPATIENT = """\
fsspec_store._CONNECT_S = fsspec_store._SILENCE_S = 1
fsspec_store._KEEPALIVE_S = 0.3
place._WAITS_S = (0.1,) * 2
"""
_AS_IT_IS = ("-m", "pramfs")
_DAYS_LATER = "keep._UNFINISHED_S = -86400"
_PLAIN = {"PYTHONPATH": str(CHECKOUT), "LC_ALL": "C", "PYTHONUTF8": "1"}


class Servers(NamedTuple):
    """All servers of the tier, running."""

    machine: ServerMachine
    swift: Swift
    sshd: Sshd
    https: HttpsServer
    s3: Any  # a client of Swift, by the library of the AWS tools


class Files(Protocol):
    """What a place has, without pramfs and without the link between."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""

    def write(self, name: str, data: bytes) -> None:
        """Replace a file."""

    def remove(self, name: str) -> None:
        """Remove a file."""


class RemotePlace:
    """A place that pramfs sends to and receives from, through a link that can be bad."""

    def __init__(
        self, url: str, files: Files, link: FaultyLink | None, environment: Mapping[str, str]
    ) -> None:
        self.url = url
        self.files = files
        self.environment = dict(environment)
        self._link = link
        self._program: tuple[str, ...] = _AS_IT_IS

    @property
    def is_far(self) -> bool:
        """Whether there is a link between."""
        return self._link is not None

    @property
    def link(self) -> FaultyLink:
        assert self._link is not None, "there is no link to a directory"
        return self._link

    def be_patient(self, *, patient: bool) -> None:
        """Let pramfs wait for a silent server as long as it does, or for a second, three times."""
        self._program = _AS_IT_IS if patient else _changed(_IMPATIENT)

    def hurry(self) -> None:
        """Let pramfs hardly wait between attempts, unless the long form is asked for."""
        if not LONG:
            self._program = _changed(_HURRIED)

    def let_days_pass(self) -> None:
        """Let pramfs take everything that is unfinished for old."""
        self._program = _changed(_DAYS_LATER)

    def send(self, *words: str | Path, **changes: str) -> Outcome:
        return self.pramfs("send", "--to", self.url, *words, **changes)

    def receive(self, *words: str | Path, stream: str = "", **changes: str) -> Outcome:
        place = self.url + (f"@{stream}" if stream else "")
        return self.pramfs("receive", "--from", place, *words, **changes)

    def streams(self) -> list[dict[str, Any]]:
        """What `pramfs snapshots` lists. It says so if there is nothing."""
        return self._streams_in(self.pramfs(*self._listing()))

    def listed(self) -> list[str]:
        """The names that `pramfs snapshots` lists."""
        return _names(self.streams())

    def listed_beside(self, *words: str | Path) -> tuple[list[str], Outcome]:
        """The names that it lists while another command runs, and how that one has ended."""
        listing, other = self.all_at_once([self._listing(), words])
        return _names(self._streams_in(listing)), other

    def pramfs(self, *words: str | Path, **changes: str) -> Outcome:
        """Run pramfs to its end, with changes in the environment. It tells nobody the secret."""
        (told,) = self.all_at_once([words], **changes)
        return told

    def all_at_once(
        self, commands: Sequence[Sequence[str | Path]], **changes: str
    ) -> list[Outcome]:
        """Run pramfs several times at once: those that wait for the network do so together."""
        running = [self.start(*words, **changes) for words in commands]
        return [self.end_of(process) for process in running]

    def start(self, *words: str | Path, **changes: str) -> subprocess.Popen[bytes]:
        """Start pramfs; `end_of` waits for its end."""
        return subprocess.Popen(
            [sys.executable, *self._program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_PLAIN, **self.environment, **changes},
        )

    def end_of(self, process: subprocess.Popen[bytes]) -> Outcome:
        """Return how it ended. It has told nobody the secret."""
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        told = Outcome(process.returncode, out, err.decode(errors="replace"))
        assert SECRET_KEY not in told.text + told.err
        return told

    def _listing(self) -> tuple[str, ...]:
        return ("snapshots", "--json", self.url)

    def _streams_in(self, listing: Outcome) -> list[dict[str, Any]]:
        told = json.loads(listing.text)["streams"]
        assert isinstance(told, list)
        if told:
            listing.succeeded()
        else:
            listing.refused(32, f"{self.url}: there are no streams")
        return told


class LocalFiles:
    """A place that is a directory of this machine, at least for the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in files)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()


class BucketFiles:
    """A place in a new bucket."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.bucket = bucket
        self._client = client
        self._client.create_bucket(Bucket=bucket)

    def names(self) -> list[str]:
        told = self._client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(one["Key"].removeprefix(f"{FOLDER}/") for one in told)

    def read(self, name: str) -> bytes:
        told = self._client.get_object(Bucket=self.bucket, Key=f"{FOLDER}/{name}")
        return bytes(told["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=f"{FOLDER}/{name}", Body=data)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=f"{FOLDER}/{name}")


@contextlib.contextmanager
def running_servers(place: Path) -> Iterator[Servers]:
    """Start all servers, with their state below `place`. Takes root. Raises FailureError."""
    machine = ServerMachine(place)
    with (
        Swift(machine) as swift,
        Sshd(machine) as sshd,
        HttpsServer(machine, swift.port) as https,
        contextlib.closing(_client_of(swift.port)) as s3,
    ):
        yield Servers(machine, swift, sshd, https, s3)


def _client_of(port: int) -> Any:
    checksums = dict.fromkeys(
        ("request_checksum_calculation", "response_checksum_validation"), "when_required"
    )
    return botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(**checksums, s3={"addressing_style": "path"}, proxies={}),
    )


@contextlib.contextmanager
def bucket(servers: Servers, name: str, home: Path) -> Iterator[RemotePlace]:
    """A place in a new bucket of Swift."""
    files = BucketFiles(servers.s3, name)
    with FaultyLink(servers.swift.port) as link:
        environment = {
            **_at_home(home),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield RemotePlace(f"s3://{name}/{FOLDER}", files, link, environment)


@contextlib.contextmanager
def ssh_folder(servers: Servers, name: str, home: Path) -> Iterator[RemotePlace]:
    """A place on the ssh server, which ~/.ssh/config knows."""
    with _folder(servers.sshd.folder / name) as files, FaultyLink(servers.sshd.port) as link:
        servers.sshd.let_in(home, HOST, link.port)
        url = f"sftp://{HOST}/tmp/files/{name}/{FOLDER}"
        yield RemotePlace(url, files, link, _at_home(home))


@contextlib.contextmanager
def web_folder(servers: Servers, name: str, home: Path) -> Iterator[tuple[RemotePlace, Path]]:
    """A place on the web server, and where it is here, to send to."""
    with _folder(servers.https.folder / name) as files, FaultyLink(servers.https.port) as link:
        url = f"https://localhost:{link.port}/{name}/{FOLDER}"
        environment = {**_at_home(home), "SSL_CERT_FILE": str(servers.https.certificate)}
        yield RemotePlace(url, files, link, environment), files.folder


@contextlib.contextmanager
def directory(_servers: Servers, name: str, home: Path) -> Iterator[RemotePlace]:
    """A place that is a directory here."""
    with _folder(home / name) as files:
        yield RemotePlace(str(files.folder), files, None, _at_home(home))


@contextlib.contextmanager
def _folder(top: Path) -> Iterator[LocalFiles]:
    try:
        yield LocalFiles(top / FOLDER)
    finally:
        shutil.rmtree(top, ignore_errors=True)  # where nothing was sent to it is not there


def command_lines(pid: int) -> list[bytes]:
    """Return the command lines of a process and of those that it has started, as ps(1) shows them."""
    found = [Path(f"/proc/{pid}/cmdline").read_bytes()]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += command_lines(int(child))
    return found


def _changed(changes: str) -> tuple[str, ...]:
    """How to run pramfs with other settings than its own."""
    return ("-c", _CHANGED.format(changes=changes))


def _names(streams: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["name"] for one in streams]


def _at_home(home: Path) -> dict[str, str]:
    """Nothing of the user who runs the tests, and no proxy, is in between."""
    return {"HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"}
