"""OpenSSH's sshd, and what a user who may log in there has in ~/.ssh."""

from pathlib import Path

from tests.remote.server_process import Server, ServerMachine, free_port

_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey /tmp/ssh/host_key
AuthorizedKeysFile /tmp/ssh/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
Subsystem sftp internal-sftp
MaxStartups 100
LogLevel VERBOSE
"""
_KEYS = """\
mkdir ssh
ssh-keygen -q -t ed25519 -N '' -C '' -f ssh/host_key
ssh-keygen -q -t ed25519 -N '' -C '' -f ssh/key
ssh-keygen -q -t ed25519 -N '' -C '' -f ssh/stranger
cp ssh/key.pub ssh/authorized_keys
"""
FULL = "/tmp/files/full"  # where there is little room, and only the server sees what is there
_SERVE = f"""\
mkdir -p /run/sshd {FULL}
mount -t tmpfs -o size=12M tmpfs {FULL}
exec /usr/sbin/sshd -D -e -f ssh/sshd_config
"""
_CONFIG = """\
Host {host}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
"""


class Sshd:
    """The server. A context manager. `folder` is what is /tmp/files there."""

    def __init__(self, machine: ServerMachine) -> None:
        self.port = 0
        self.folder = machine.tmp / "files"
        self._machine = machine
        self._keys = machine.tmp / "ssh"
        self._server: Server | None = None

    def __enter__(self) -> "Sshd":
        self._machine.run("sh", "-ec", _KEYS)
        self.folder.mkdir(exist_ok=True)
        self.port = free_port()
        (self._keys / "sshd_config").write_text(_SSHD.format(port=self.port))
        self._server = self._machine.start("sshd", _SERVE)
        self._server.wait_for(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.end()

    def let_in(self, home: Path, host: str, port: int, *, key: str = "key") -> None:
        """Write the ~/.ssh of a user for whom `host` is the server at that port of this machine.

        With the key "stranger" it lets nobody in.
        """
        folder = home / ".ssh"
        folder.mkdir(mode=0o700)
        for name in ("key", "stranger", "stranger.pub"):
            (folder / name).write_bytes((self._keys / name).read_bytes())
            (folder / name).chmod(0o600)
        public = (self._keys / "host_key.pub").read_text().split()
        names = f"{host},127.0.0.1,[127.0.0.1]:{port},[{host}]:{port}"
        (folder / "known_hosts").write_text(f"{names} {' '.join(public[:2])}\n")
        settings = {"host": host, "port": port, "key": folder / key}
        configuration = _CONFIG.format(**settings, known_hosts=folder / "known_hosts")
        (folder / "config").write_text(configuration)
