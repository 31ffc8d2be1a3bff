"""The table from errors to HTTP."""

import json
from collections.abc import Iterator

import pytest

from hyprstream.core.errors import (
    ContextOverflow,
    Corrupt,
    HyprstreamError,
    Invalid,
    NotFound,
    QueueFull,
    RateLimited,
)
from hyprstream.server.errors import SHAPES, error_body, error_response, shape_of

SCOPE = {"type": "http", "state": {"request_id": "req_1"}}


def tree(root: type[HyprstreamError]) -> Iterator[type[HyprstreamError]]:
    yield root
    for branch in root.__subclasses__():
        yield from tree(branch)


def test_every_error_of_ours_has_a_row_of_its_own():
    # A part may make its own kind of `Invalid`, which looks like any other from outside.
    shared = ("hyprstream.core.errors", "hyprstream.server.errors")
    assert {error for error in tree(HyprstreamError) if error.__module__ in shared} == set(SHAPES)


@pytest.mark.parametrize("row", SHAPES.values())
def test_every_row_is_an_error(row):
    assert 400 <= row.status < 600


def test_a_class_without_a_row_has_that_of_its_parent():
    class Stranger(NotFound):
        pass

    assert shape_of(Stranger("x")) == SHAPES[NotFound]
    del Stranger


def test_the_object_has_the_four_keys_of_openai():
    error = error_body(Invalid("no", param="messages.0"), SCOPE)["error"]
    assert error == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "messages.0",
        "code": None,
    }


def test_the_way_out_is_part_of_the_message():
    error = error_body(Invalid("no", hint="say yes"), SCOPE)["error"]
    assert error["message"] == "no (say yes)"


def test_an_overflow_carries_its_numbers():
    error = error_body(ContextOverflow(needed=9, available=4), SCOPE)["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9, 4)


def test_what_is_not_found_is_named_in_the_code():
    assert error_body(NotFound("x", kind="file"), SCOPE)["error"]["code"] == "file_not_found"


def test_a_foreign_exception_tells_the_request_id_only():
    response = error_response(ValueError("/etc/secret at 0xdeadbeef"), SCOPE)
    assert response.status_code == 500
    message = json.loads(response.body)["error"]["message"]
    assert "req_1" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull(waiting=1, limit=1, retry_after=4), "queue_full"),
        (RateLimited("slow down", limit="concurrent", retry_after=4), "rate_limit_exceeded"),
    ],
)
def test_who_has_to_wait_is_told_how_long(error, code):
    response = error_response(error, SCOPE)
    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
    said = json.loads(response.body)["error"]
    assert (said["type"], said["code"]) == ("rate_limit_error", code)


def test_damage_on_our_disk_is_our_fault_and_tells_no_paths():
    response = error_response(Corrupt("/var/lib/x.key does not hold a key"), SCOPE)
    assert response.status_code == 500
    assert b"/var" not in response.body
