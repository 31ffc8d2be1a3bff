"""Server-sent events out of a byte stream cut anywhere (WHATWG HTML, section 9.2). Knows no HTTP and no JSON."""


class SseParser:
    """Collects the `data` of events; other fields and comments (keep-alives) are passed over."""

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that this chunk completes, in order."""
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        payloads: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                payloads.append(b"\n".join(self._data))
                self._data.clear()
        return payloads
