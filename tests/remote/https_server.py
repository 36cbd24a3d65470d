"""nginx: a folder over https, and Swift's S3 interface behind the same certificate."""

from tests.remote.server_process import Server, ServerMachine, free_port

_NGINX = """\
daemon off;
worker_processes 1;
user root;
pid /tmp/https/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    ssl_certificate /tmp/https/certificate;
    ssl_certificate_key /tmp/https/key;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{files} ssl;
        root /tmp/files;
        autoindex on;
    }}
    server {{
        listen 127.0.0.1:{s3} ssl;
        location / {{
            proxy_pass http://127.0.0.1:{swift};
            proxy_set_header Host $http_host;
            proxy_http_version 1.1;
            proxy_request_buffering off;
        }}
    }}
}}
"""
_CERTIFICATES = """\
mkdir https
for name in "" other-; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \\
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout https/${name}key \\
        -out https/${name}certificate
done
"""


class HttpsServer:
    """The server. A context manager. `folder` is what it serves at `port`."""

    def __init__(self, machine: ServerMachine, swift_port: int) -> None:
        self.port = 0
        self.s3_port = 0
        self.folder = machine.tmp / "files"
        self.certificate = machine.tmp / "https/certificate"
        self.other_certificate = machine.tmp / "https/other-certificate"  # of somebody else
        self._swift_port = swift_port
        self._machine = machine
        self._server: Server | None = None

    def __enter__(self) -> "HttpsServer":
        self._machine.run("sh", "-ec", _CERTIFICATES)
        self.folder.mkdir(exist_ok=True)
        self.port, self.s3_port = free_port(), free_port()
        ports = {"files": self.port, "s3": self.s3_port, "swift": self._swift_port}
        configuration = self._machine.tmp / "https/nginx.conf"
        configuration.write_text(_NGINX.format(**ports))
        self._server = self._machine.start("nginx", "exec nginx -c /tmp/https/nginx.conf")
        self._server.wait_for(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.end()
