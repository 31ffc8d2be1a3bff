"""A small Git LFS server on loopback that misbehaves when a test tells it, and remembers what it was asked.

Speaks the batch API with basic transfers: `<url>/objects/batch`, `<url>/objects/<oid>` (GET with ranges, PUT), `<url>/verify`.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.loopback import Reply, Request, Served


@dataclass(frozen=True)
class Call:
    """One request. Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass
class LfsServer:
    """What the server has and how it behaves."""

    url: str = ""
    """Of the Git LFS server, without a slash at the end."""
    objects: dict[str, bytes] = field(default_factory=dict, repr=False)
    token: str | None = None
    """What everybody must show, as Bearer or as the password of Basic."""
    storage: str | None = None
    """Origin of the addresses in answers, where it is another; there a key of its own is needed."""
    expires_in: int | None = None
    cuts: list[int] = field(default_factory=list)
    """Where the next downloads break off."""
    corrupt: set[str] = field(default_factory=set)
    """Files that are sent with one bit turned."""
    busy: list[Reply] = field(default_factory=list)
    """What the next requests are answered instead."""
    edit: Callable[[dict[str, object]], object] = lambda answer: answer
    """What becomes of the answer to a batch."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Unless it is open, no body of an upload is read."""
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def add(self, content: bytes) -> str:
        """Have a file; returns its SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        self.objects[digest] = content
        return digest

    def asked(self, method: str, part: str = "") -> list[Call]:
        """The requests by a method whose path contains `part`, in order."""
        return [call for call in self.calls if call.method == method and part in call.path]

    def answer(self, call: Call) -> Reply:
        """The reply to a request whose path is below the server's."""
        self.calls.append(call)
        if self.busy:
            return self.busy.pop(0)
        if not self._is_allowed(call):
            return Reply(b'{"message": "Credentials needed"}', 401)
        oid = call.path.rpartition("/")[2]
        match call.method, oid:
            case "POST", "batch":
                return self._batch(json.loads(call.body))
            case "POST", "verify":
                asked = json.loads(call.body)
                return Reply(status=200 if asked["oid"] in self.objects else 404)
            case "PUT", _:
                is_right = hashlib.sha256(call.body).hexdigest() == oid
                if is_right:
                    self.objects[oid] = call.body
                return Reply(status=200 if is_right else 422)
            case "GET", _ if oid in self.objects:
                return self._object(oid, call)
            case _:
                return Reply(status=404)

    def _is_allowed(self, call: Call) -> bool:
        if self.storage is not None and call.headers["host"] in self.storage:
            return call.headers.get("x-key") == "sesame"
        if self.token is None:
            return True
        kind, _, value = call.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            value = base64.b64decode(value).decode().partition(":")[2]
        return value == self.token

    def _object(self, oid: str, call: Call) -> Reply:
        content = bytearray(self.objects[oid])
        if oid in self.corrupt:
            content[-1] ^= 1
        served = Served(bytes(content), cuts=[self.cuts.pop(0)] if self.cuts else [])
        return served(Request(call.path, call.headers))

    def _batch(self, request: dict[str, object]) -> Reply:
        described = [self._describe(asked, request["operation"]) for asked in request["objects"]]
        answer = {"transfer": "basic", "objects": described, "hash_algo": "sha256"}
        body = json.dumps(self.edit(answer)).encode()
        return Reply(body, 200, {"Content-Type": "application/vnd.git-lfs+json"})

    def _describe(self, asked: dict[str, object], operation: object) -> dict[str, object]:
        has = asked["oid"] in self.objects
        if operation == "upload":
            actions = {} if has else {"upload": self._action(asked), "verify": self._verify()}
            return asked | ({"actions": actions} if actions else {})
        if not has:
            return asked | {"error": {"code": 404, "message": "Object does not exist"}}
        return asked | {"actions": {"download": self._action(asked)}}

    def _action(self, asked: dict[str, object]) -> dict[str, object]:
        path = "/" + self.url.split("/", 3)[3] if self.url.count("/") > 2 else ""
        base = f"{self.storage}{path}" if self.storage else self.url
        action: dict[str, object] = {"href": f"{base}/objects/{asked['oid']}?signature=s3cret"}
        if self.storage:
            action["header"] = {"X-Key": "sesame"}
        if self.expires_in is not None:
            action["expires_in"] = self.expires_in
        return action

    def _verify(self) -> dict[str, object]:
        return {"href": f"{self.url}/verify"}


@contextmanager
def lfs_server() -> Iterator[LfsServer]:
    """Serve until the block is left."""
    server = LfsServer()
    with serve(server.answer, server.gate) as origin:
        server.url = f"{origin}/model.git/info/lfs"
        yield server


@contextmanager
def serve(answer: Callable[[Call], Reply], gate: threading.Event | None = None) -> Iterator[str]:
    """A web server on loopback; gives its origin. Bodies of PUT wait for the gate."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            path, _, query = self.path.partition("?")
            headers = {name.lower(): value for name, value in self.headers.items()}
            if gate is not None and self.command == "PUT":
                gate.wait()
            reply = answer(Call(self.command, path, query, headers, self.read_body()))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked may have left
                self.wfile.write(reply.body[: reply.n_sent])
            self.close_connection = True

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        def read_body(self) -> bytes:
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
