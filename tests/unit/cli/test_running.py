"""Whether a server runs here, and what it has in memory."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hyprstream.cli.running import loaded_models
from hyprstream.settings import ServerSettings


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[int]:
    """A block during which something answers every request so, at this port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_models_in_memory_are_told_from_the_others() -> None:
    models = [
        {"id": "a:main", "status": {"value": "loaded"}},
        {"id": "b:main", "status": {"value": "unloaded"}},
    ]
    with answering(json.dumps({"data": models}).encode()) as port:
        assert loaded_models(ServerSettings(port=port)) == {"a:main"}


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"[]", b'{"data": 1}', b'{"data": [1, {"id": 1}, {"status": "loaded"}]}'],
)
def test_something_else_that_listens_there_has_no_model(body: bytes) -> None:
    with answering(body) as port:
        assert not loaded_models(ServerSettings(port=port))


def test_where_nobody_answers_or_we_may_not_look_nothing_is_known() -> None:
    assert loaded_models(ServerSettings(port=1)) is None
    with answering(b'{"error": {}}', 401) as port:
        assert loaded_models(ServerSettings(port=port)) is None


def test_an_address_elsewhere_is_not_asked() -> None:
    with answering(b'{"data": []}') as port:
        assert loaded_models(ServerSettings(host="0.0.0.0", port=port)) is None
