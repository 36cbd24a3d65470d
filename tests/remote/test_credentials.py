"""Credentials from each place where the tools of the ecosystem look: nobody is told them."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import wait_until
from tests.remote import real_places
from tests.remote.real_places import RemotePlace, Servers
from tests.remote.server_process import Server
from tests.remote.swift import ACCESS_KEY, REGION, SECRET_KEY

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32
KEYS = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
WRONG = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = another-secret-of-the-test\n"
FROM_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


def works(place: RemotePlace, small: Path) -> None:
    """Assert that something can be sent, listed and received; no command line has the secret meanwhile."""
    sending = place.start("send", "--to", place.url, f"{small}@one")
    shown = set()
    while sending.poll() is None:
        with contextlib.suppress(OSError):  # one of them has ended
            shown |= set(real_places.command_lines(sending.pid))
        time.sleep(0.01)
    place.end_of(sending).succeeded()
    assert any(f"{small}@one".encode() in line for line in shown)
    assert not any(SECRET_KEY.encode() in line for line in shown)
    new = Path(place.environment["HOME"], "new.pram")
    receive = ("receive", "--from", place.url, "--size", "16M", new)
    listed, received = place.listed_beside(*receive)
    assert listed == ["pramfs@one"]
    received.succeeded()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture
def stranger(bucket: RemotePlace) -> RemotePlace:
    """A bucket of which the environment says nothing but where it is."""
    for name in FROM_ENVIRONMENT:
        del bucket.environment[name]
    return bucket


def test_credentials_of_the_default_profile(stranger: RemotePlace, small: Path, user: Path) -> None:
    write(user / ".aws/credentials", f"[default]\n{KEYS}")
    write(user / ".aws/config", f"[default]\nregion = {REGION}\n")
    works(stranger, small)


def test_credentials_of_a_profile_with_its_own_server(
    stranger: RemotePlace, small: Path, user: Path
) -> None:
    endpoint = stranger.environment.pop("AWS_ENDPOINT_URL")
    write(user / ".aws/credentials", f"[default]\n{WRONG}[work]\n{KEYS}")
    write(user / ".aws/config", f"[profile work]\nregion = {REGION}\nendpoint_url = {endpoint}\n")
    stranger.environment["AWS_PROFILE"] = "work"
    works(stranger, small)
    for profile, words in (("default", "cannot"), ("nobody", "nobody")):
        told = stranger.send(f"{small}@one", AWS_PROFILE=profile, AWS_ENDPOINT_URL=endpoint)
        told.refused(FAILED, stranger.url, words)


def test_credentials_of_other_files_and_programs(
    stranger: RemotePlace, small: Path, user: Path
) -> None:
    write(user / "keys", f"[default]\n{KEYS}")
    stranger.environment |= {
        "AWS_SHARED_CREDENTIALS_FILE": str(user / "keys"),
        "AWS_DEFAULT_REGION": REGION,
    }
    works(stranger, small)
    (user / "keys").unlink()
    answer = f'{{"Version": 1, "AccessKeyId": "{ACCESS_KEY}", "SecretAccessKey": "{SECRET_KEY}"}}'
    write(user / "answer", answer)
    write(user / ".aws/config", f"[default]\ncredential_process = cat {user}/answer\n")
    assert stranger.listed() == ["pramfs@one"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[default]\n{WRONG}", "signature"),
        (f"[default]\naws_access_key_id = {ACCESS_KEY}\n", "no credentials"),
        (f"{KEYS}", "credentials"),
        ("", "no credentials"),
    ],
    ids=["wrong", "half", "no profile", "empty"],
)
def test_credentials_that_are_wrong(
    stranger: RemotePlace, small: Path, user: Path, text: str, words: str
) -> None:
    write(user / ".aws/credentials", text)
    commands = (("send", "--to", stranger.url, f"{small}@one"), ("snapshots", stranger.url))
    for told in stranger.all_at_once(commands, AWS_DEFAULT_REGION=REGION):
        told.refused(FAILED, stranger.url, words)
        assert "another-secret" not in told.err


@pytest.fixture
def ssh_place(servers: Servers, name: str, user: Path) -> Iterator[RemotePlace]:
    with real_places.ssh_folder(servers, name, user) as place:
        place.environment["SSH_AUTH_SOCK"] = ""
        yield place


def without_key(user: Path) -> Path:
    """Let ~/.ssh/config name no key; return the one that there is."""
    configuration = user / ".ssh/config"
    lines = configuration.read_text().splitlines(keepends=True)
    configuration.write_text("".join(line for line in lines if "Identit" not in line))
    return user / ".ssh/key"


def test_a_key_of_the_usual_name(ssh_place: RemotePlace, small: Path, user: Path) -> None:
    key = without_key(user)
    ssh_place.send(f"{small}@one").refused(FAILED, ssh_place.url, "permission denied")
    key.rename(key.with_name("id_ed25519"))
    works(ssh_place, small)


@pytest.fixture
def agent(servers: Servers) -> Iterator[Callable[[str], str]]:
    """Give ssh-agent a key; return where it is."""
    running: list[Server] = []

    def start(key: str) -> str:
        running.append(servers.machine.start("agent", "exec ssh-agent -D -a /tmp/agent"))
        socket = servers.machine.tmp / "agent"
        wait_until(socket.exists, "the agent")
        servers.machine.run("env", "SSH_AUTH_SOCK=/tmp/agent", "ssh-add", "-q", key)
        return str(socket)

    yield start
    for server in running:
        server.end()
    (servers.machine.tmp / "agent").unlink(missing_ok=True)


def test_a_key_that_only_the_agent_has(
    ssh_place: RemotePlace, small: Path, user: Path, agent: Callable[[str], str]
) -> None:
    without_key(user).unlink()
    ssh_place.environment["SSH_AUTH_SOCK"] = agent("ssh/key")
    works(ssh_place, small)
    gone = str(user / "gone")
    told = ssh_place.send(f"{small}@two", SSH_AUTH_SOCK=gone)
    told.refused(FAILED, ssh_place.url, "permission denied")


def test_a_configuration_of_ssh_that_is_wrong(
    ssh_place: RemotePlace, small: Path, user: Path
) -> None:
    """It is told with the file, and the place looks neither empty nor as if it had no such stream."""
    ssh_place.send(f"{small}@one").succeeded()
    stream = ssh_place.streams()[0]["id"]
    configuration = user / ".ssh/config"
    text = configuration.read_text()
    for changed, words in (
        (text.replace("/key\n", "/missing\n"), f"{user}/.ssh/missing: no such file"),
        (text.replace("Port ", "Port x"), f"{configuration} line 3"),
    ):
        configuration.write_text(changed)
        for told in ssh_place.all_at_once(
            [
                ("snapshots", ssh_place.url),
                ("send", "--to", ssh_place.url, f"{small}@two"),
                ("receive", "--from", f"{ssh_place.url}@{stream}", user / "new.pram"),
            ]
        ):
            told.refused(FAILED, ssh_place.url, words)
    configuration.write_text(text)
    assert ssh_place.listed() == ["pramfs@one"]


def test_a_host_whose_key_nobody_has_seen(ssh_place: RemotePlace, small: Path, user: Path) -> None:
    (user / ".ssh/known_hosts").unlink()
    told = ssh_place.send(f"{small}@one")
    told.refused(FAILED, ssh_place.url, "known_hosts: no such file")
    assert not os.path.lexists(user / ".ssh/known_hosts")
