"""A web server on loopback that does what a test tells it, misbehaviour included, and remembers what it was asked."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """What a client asked. Header names are in lower case."""

    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What it gets. With `n_sent` the connection breaks after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    n_sent: int | None = None
    says_length: bool = True
    release: threading.Event | None = None
    """What the server waits for before it breaks off."""


Route = Callable[[Request], Reply]


@dataclass
class Served:
    """A route for one file. `cuts` are the places where the first answers break off."""

    data: bytes
    etag: str | None = '"one"'
    takes_ranges: bool = True
    cuts: list[int] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        headers = {"ETag": self.etag} if self.etag else {}
        n_sent = self.cuts.pop(0) if self.cuts else None
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        is_same = request.headers.get("if-range", self.etag) == self.etag
        if not (found and self.takes_ranges and is_same):
            return Reply(self.data, 200, headers, n_sent)
        start = int(found[1])
        if start >= len(self.data):
            return Reply(b"", 416, {"Content-Range": f"bytes */{len(self.data)}"})
        headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        return Reply(self.data[start:], 206, headers, n_sent)


@dataclass
class Loopback:
    """The running server."""

    url: str
    routes: dict[str, Route] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> list[Request]:
        """The requests for one path, in order."""
        return [request for request in self.requests if request.path == path]


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Serve until the block is left. Unknown paths are answered with 404; a query does not choose the route."""
    web = Loopback("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            request = Request(path, {k.lower(): v for k, v in self.headers.items()})
            web.requests.append(request)
            reply = web.routes[path](request) if path in web.routes else Reply(status=404)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.says_length:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: reply.n_sent])
            if reply.release is not None:
                reply.release.wait()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
