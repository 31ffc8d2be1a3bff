"""Bare repositories over smart HTTP on loopback, through `git http-backend`, each with a Git LFS server below it.

<root>/<name>.git is cloned, fetched and pushed as `<url>/<name>.git`; its large files are behind `<url>/<name>.git/info/lfs`.
"""

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.lfs_server import Call, LfsServer, serve
from support.loopback import Reply

LFS = "/info/lfs/"


@dataclass
class GitHttp:
    """The running server."""

    root: Path
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    """What git asked."""
    token: str | None = None
    """What everybody must show as the password of Basic; the LFS servers want it too."""
    moved_to: str | None = None
    """The origin that whoever asks is sent to, for all but large files."""
    _lfs: dict[str, LfsServer] = field(default_factory=dict)

    def lfs(self, name: str) -> LfsServer:
        """The Git LFS server of `<name>.git`: it has what is in the repository's `lfs/objects`, and keeps what it gets."""
        if name not in self._lfs:
            server = self._lfs[name] = LfsServer(f"{self.url}/{name}.git/info/lfs")
            for path in self.root.glob(f"{name}.git/lfs/objects/??/??/*"):
                server.add(path.read_bytes())
        self._lfs[name].token = self.token
        return self._lfs[name]

    def answer(self, call: Call) -> Reply:
        """The reply to any request."""
        repository, lfs, _ = call.path.partition(LFS)
        if lfs:
            return self.lfs(repository.strip("/").removesuffix(".git")).answer(call)
        self.calls.append(call)
        shown = call.headers.get("authorization", "").removeprefix("Basic ")
        if self.token not in (None, base64.b64decode(shown).decode().partition(":")[2]):
            return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="models"'})
        if self.moved_to is not None:
            return Reply(
                status=302, headers={"Location": f"{self.moved_to}{call.path}?{call.query}"}
            )
        return _cgi(self.root, call)


@contextmanager
def git_http(root: Path) -> Iterator[GitHttp]:
    """Serve the repositories in a directory until the block is left."""
    server = GitHttp(root)
    with serve(server.answer) as server.url:
        yield server


def _cgi(root: Path, call: Call) -> Reply:
    headers = {f"HTTP_{n.upper().replace('-', '_')}": value for n, value in call.headers.items()}
    result = subprocess.run(
        ["git", "-c", "http.receivepack=true", "http-backend"],
        input=call.body,
        capture_output=True,
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": call.method,
            "PATH_INFO": call.path,
            "QUERY_STRING": call.query,
            "CONTENT_TYPE": call.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(call.body)),
            "REMOTE_ADDR": "127.0.0.1",
            **headers,
        },
    )
    head, _, body = result.stdout.partition(b"\r\n\r\n")
    found = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    status = int(found.pop("Status", "200 OK").split()[0])
    return Reply(body, status, found)
