"""Server-sent events however the network cuts them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hyprstream.bench.sse import SseParser

STREAM = (
    b'data: {"a": 1}\n\n: keep-alive\n\ndata: first\ndata: second\n\nevent: x\r\ndata:tight\r\n\r\n'
)
PAYLOADS = [b'{"a": 1}', b"first\nsecond", b"tight"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_the_payloads_do_not_depend_on_where_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parser = SseParser()
    found = [
        payload for start, end in pairwise(edges) for payload in parser.feed(STREAM[start:end])
    ]
    assert found == PAYLOADS


def test_an_event_without_its_blank_line_is_not_there_yet() -> None:
    parser = SseParser()
    assert parser.feed(b"data: half\n") == []
    assert parser.feed(b"\n") == [b"half"]


def test_only_one_space_after_the_colon_is_not_data() -> None:
    assert SseParser().feed(b"data:  two\n\n") == [b" two"]
