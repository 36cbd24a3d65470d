"""OpenStack Swift with its S3 interface: an object store on this machine, with one copy of everything."""

from tests.remote.server_process import Server, ServerMachine, free_port

ACCESS_KEY = "test:tester"
SECRET_KEY = "the-secret-of-the-test"
REGION = "us-east-1"

_PARTS = ("account", "container", "object")
_SWIFT = """\
[swift-hash]
swift_hash_path_suffix = test

[storage-policy:0]
name = zero
default = yes
"""
_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
devices = /tmp/swift/devices
mount_check = false
"""
_STORAGE = """
[pipeline:main]
pipeline = {part}-server

[app:{part}-server]
use = egg:swift#{part}
"""
# The packages' time-outs are for machines that do nothing else.
_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60
recoverable_node_timeout = 60

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api
location = {region}

[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin

[filter:slo]
use = egg:swift#slo
"""
# What swift-ring-builder does, by the same library: nine calls of it take ten seconds.
_RINGS = """\
import sys
from swift.common.ring import RingBuilder

for part, port in zip(sys.argv[1::2], sys.argv[2::2]):
    ring = RingBuilder(4, 1, 0)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1}
    ring.add_dev({"id": 0} | device)
    ring.rebalance()
    ring.get_ring().save(f"/tmp/swift/{part}.ring.gz")
"""
_SERVE = (
    "rm -r /etc/swift; ln -s /tmp/swift /etc/swift; exec swift-$1-server swift/$1.conf --verbose"
)
_MEMCACHED = "exec memcached -u root -l 127.0.0.1 -p $1"


class Swift:
    """The four servers, and the memcached where one of them keeps who has logged in. A context manager."""

    def __init__(self, machine: ServerMachine) -> None:
        self.port = 0
        self._machine = machine
        self._servers: list[Server] = []

    def __enter__(self) -> "Swift":
        folder = self._machine.tmp / "swift"
        (folder / "devices/disk").mkdir(parents=True)
        (folder / "swift.conf").write_text(_SWIFT)
        ports = {part: free_port() for part in _PARTS}
        pairs = (str(word) for pair in ports.items() for word in pair)
        self._machine.run("python3", "-c", _RINGS, *pairs)
        for part, port in ports.items():
            self._start(part, port, _STORAGE.format(part=part))
        self.port = free_port()
        memcached = free_port()
        self._servers.append(self._machine.start("memcached", _MEMCACHED, str(memcached)))
        user = ACCESS_KEY.replace(":", "_")
        words = {"region": REGION, "user": user, "secret": SECRET_KEY, "memcached": memcached}
        self._start("proxy", self.port, _PROXY.format(**words))
        every_port = (*ports.values(), memcached, self.port)
        for server, port in zip(self._servers, every_port, strict=True):
            server.wait_for(port)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.end()

    def _start(self, part: str, port: int, rest: str) -> None:
        configuration = self._machine.tmp / f"swift/{part}.conf"
        configuration.write_text(_COMMON.format(port=port) + rest)
        self._servers.append(self._machine.start(f"swift-{part}", _SERVE, part))
