"""Who gets in, asked of every route there is: the list is the server's own OpenAPI document, so that none is forgotten."""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from hyprstream.core.principal import Scope, local_subject
from hyprstream.policy import templates
from hyprstream.policy.keys import KeyRing
from hyprstream.policy.tokens import TokenStore
from hyprstream.server.app import _api
from hyprstream.server.options import ServerOptions
from support.fake_engine import FakeEngine
from support.front_door import HELLO, SOON, application, services_around, serving

PUBLIC = {"/", "/health"}
"""What everybody may ask. A route that is not here needs a principal whom the policy allows it."""
UNDOCUMENTED = {"/openapi.json"}
"""The document itself, which holds nothing of anybody's."""

ALICE_MAY = "p, token:alice, *, *, *, allow\n"
PARAMETERS = {"model": "fake"}
BODIES: dict[str, dict[str, object]] = {
    "ChatCompletionBody": HELLO,
    "CompletionBody": {"model": "fake", "prompt": "Hello"},
}
"""A good body for each schema. A new route's goes here."""


@dataclass(frozen=True)
class Route:
    """One operation of the document, with what it takes to succeed."""

    method: str
    path: str
    url: str
    body: dict[str, object] | None = field(compare=False)

    @property
    def is_public(self) -> bool:
        return self.path in PUBLIC


def routes_of(document: dict[str, dict[str, dict[str, dict[str, object]]]]) -> Iterator[Route]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield Route(method.upper(), path, path.format(**PARAMETERS), body_of(operation))
            if method == "get":
                yield Route("HEAD", path, path.format(**PARAMETERS), None)


def body_of(operation: dict[str, object]) -> dict[str, object] | None:
    match operation.get("requestBody"):
        case {"content": {"application/json": {"schema": {"$ref": str(reference)}}}}:
            return BODIES[reference.rpartition("/")[2]]
        case None:
            return None
        case other:
            raise AssertionError(f"no body is known for {other}")


class Clock:
    """Stands still until it is moved."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Door:
    """A server with a policy for Alice alone, and a key of every kind."""

    client: httpx.AsyncClient
    keys: dict[str, str | None]

    async def answers(self, key: str) -> dict[Route, httpx.Response]:
        credential = self.keys[key]
        headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
        return {route: await self._ask(route, headers) for route in await self.routes()}

    async def routes(self) -> list[Route]:
        return list(routes_of((await self.client.get("/openapi.json")).json()))

    async def _ask(self, route: Route, headers: dict[str, str]) -> httpx.Response:
        return await self.client.request(route.method, route.url, json=route.body, headers=headers)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Door]:
    clock = Clock()
    url = f"sqlite:///{tmp_path / 'data' / 'hyprstream.db'}"
    with closing(TokenStore(url, KeyRing(tmp_path / "data" / "keys"), clock=clock)) as store:

        def issue(name: str, hours: int, *scopes: str) -> str:
            limits = [Scope.parse(scope) for scope in scopes]
            lifetime = timedelta(hours=hours)
            return store.create("alice", name=name, expires=lifetime, scopes=limits).token

        keys = {
            "none": None,
            "dummy": "dummy",
            "expired": issue("short", 1),
            "revoked": issue("lost", 9),
            "wrong scope": issue("narrow", 9, "model:absent", "train:*"),
            "right": issue("dev", 9),
            "right scope": issue("wide", 9, "registry", "model:*"),
        }
        store.revoke("lost")
        clock.now += 2 * 3600
        async with application(FakeEngine("a"), rules=ALICE_MAY, tokens=store) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                base_url="http://127.0.0.1:8080", transport=transport
            ) as c:
                yield Door(c, keys)


@pytest.mark.parametrize("key", ["none", "dummy", "expired", "revoked"])
async def test_without_a_good_key_only_what_is_public_answers(door: Door, key: str) -> None:
    answers = await door.answers(key)
    expected = {route: 200 if route.is_public else 401 for route in answers}
    assert {route: answer.status_code for route, answer in answers.items()} == expected
    refusals = [answer for route, answer in answers.items() if not route.is_public]
    assert {answer.headers["www-authenticate"] for answer in refusals} == {"Bearer"}
    assert {answer.json()["error"]["type"] for answer in refusals if answer.content} == {
        "authentication_error"
    }


@pytest.mark.parametrize("key", ["expired", "revoked"])
async def test_a_key_that_was_good_once_is_told_what_became_of_it(door: Door, key: str) -> None:
    answers = await door.answers(key)
    told = [
        a.json()["error"]["message"] for r, a in answers.items() if not r.is_public and a.content
    ]
    assert told
    assert all(key in message for message in told)


async def test_outside_its_scopes_a_token_opens_nothing_though_the_policy_would(door: Door) -> None:
    answers = await door.answers("wrong scope")
    for route, answer in answers.items():
        # What one may not see is not there.
        assert answer.status_code in ({200} if route.is_public else {403, 404}), route


@pytest.mark.parametrize("key", ["right", "right scope"])
async def test_the_right_key_opens_every_route(door: Door, key: str) -> None:
    answers = await door.answers(key)
    assert {route: answer.status_code for route, answer in answers.items()} == dict.fromkeys(
        answers, 200
    )


async def test_no_route_is_missing_from_the_document(door: Door) -> None:
    api = _api(services_around(FakeEngine()), ServerOptions(is_loopback=True, max_body_bytes=1))
    served = {
        (method, context.path.replace(":path}", "}"))
        for context in iter_route_contexts(api.routes)
        for method in context.methods or ()
    }
    documented = {(route.method, route.path) for route in await door.routes()}
    assert {(m, path) for m, path in served if path not in UNDOCUMENTED} == documented


async def test_there_is_something_to_ask(door: Door) -> None:
    paths = {route.path for route in await door.routes()}
    assert paths >= PUBLIC | {"/v1/models", "/oai/v1/chat/completions"}


@asynccontextmanager
async def reached_over_loopback(rules: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with (
        serving(FakeEngine("a"), rules=rules) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=SOON) as client,
    ):
        yield client


ME = local_subject(os.getuid())


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer dummy"}])
async def test_a_user_of_this_machine_needs_no_key_where_the_policy_knows_them(
    headers: dict[str, str],
) -> None:
    async with reached_over_loopback(f"p, {ME}, http, *, *, allow\n") as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        proxied = headers | {"x-forwarded-for": "192.0.2.1"}
        assert (await client.get("/v1/models", headers=proxied)).status_code == 401


async def test_a_user_of_this_machine_whom_the_policy_does_not_know_gets_nothing() -> None:
    async with reached_over_loopback("p, local:somebody-else, *, *, *, allow\n") as client:
        assert (await client.get("/v1/models")).status_code == 403
        dummy = {"x-api-key": "dummy"}
        assert (await client.get("/v1/models", headers=dummy)).status_code == 401


async def test_where_the_anonymous_are_let_in_any_dummy_key_is_anonymous() -> None:
    rules = "p, anonymous, *, model:*, infer, allow\np, anonymous, *, model:*, query, allow\n"
    async with application(FakeEngine("a"), rules=rules) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            base_url="http://127.0.0.1:8080", transport=transport
        ) as client:
            for headers in ({}, {"authorization": "Bearer dummy"}):
                answer = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
                assert answer.status_code == 200
                assert (await client.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer dummy"}])
async def test_a_template_for_everybody_lets_the_users_of_this_machine_in_too(
    headers: dict[str, str],
) -> None:
    async with reached_over_loopback(templates.apply("", "public-inference")) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        answer = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
        assert answer.status_code == 200


async def test_to_the_anonymous_a_hidden_model_looks_like_an_absent_one() -> None:
    rules = templates.apply("p, anonymous, *, model:other, *, deny\n", "public-inference")
    async with application(FakeEngine("a"), rules=rules) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            base_url="http://127.0.0.1:8080", transport=transport
        ) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["fake:main"]
            hidden, absent = [
                await client.post("/v1/chat/completions", json=HELLO | {"model": model})
                for model in ("other:lora/medical", "other:lora/absent")
            ]
    assert hidden.status_code == absent.status_code == 404
    assert hidden.text.replace("medical", "absent") == absent.text
