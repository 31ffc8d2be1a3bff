"""What the OpenAPI document allows to be sent, sent with a token that may do little: nothing breaks, and nothing leaks out."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import APIOperation, Case, GenerationMode

from hyprstream.policy.keys import KeyRing
from hyprstream.policy.tokens import TokenStore
from support.fake_engine import FakeEngine
from support.front_door import MODELS, application

N_EXAMPLES = 25
"""For each operation, way of making requests and token."""

PUBLIC = {"/", "/health"}
SEEN, HIDDEN = MODELS
NAMES = [SEEN, HIDDEN, f"{SEEN}:main", "absent", f"{HIDDEN}/../{SEEN}"]

LOOKER_MAY = f"""
p, token:looker, *, registry, query, allow
p, token:looker, *, model:{SEEN}, query, allow
"""
USER_MAY = f"""
p, token:user, *, model:{SEEN}, query, allow
p, token:user, *, model:{SEEN}, infer, allow
"""

few = settings(
    max_examples=N_EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Api:
    """The application in an event loop of its own, as hypothesis knows none."""

    loop: asyncio.Runner
    client: httpx.AsyncClient
    keys: dict[str, str]
    document: dict[str, Any]

    def answer(self, case: Case, user: str) -> httpx.Response:
        """What is answered to a generated request of this user."""
        case.headers.pop("Authorization", None)
        sent = case.as_transport_kwargs(base_url=str(self.client.base_url))
        request = httpx.Request(
            sent["method"],
            sent["url"],
            params=sent["params"],
            headers=dict(sent["headers"]) | {"authorization": f"Bearer {self.keys[user]}"},
            json=sent.get("json"),
            content=sent.get("data"),
        )
        return self.loop.run(self.client.send(request))

    def operations(
        self, mode: GenerationMode
    ) -> Iterator[tuple[APIOperation, SearchStrategy[Case]]]:
        """Every operation, with a strategy for its requests."""
        schema = schemathesis.openapi.from_dict(self.document)
        for result in schema.get_all_operations():
            operation = result.ok()
            # Only a body can be wrong: of every path some model could be the name.
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue
            yield operation, operation.as_strategy(generation_mode=mode)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data: Path = tmp_path_factory.mktemp("data")
    with (
        closing(TokenStore(f"sqlite:///{data / 'tokens.db'}", KeyRing(data / "keys"))) as tokens,
        asyncio.Runner() as loop,
    ):
        keys = {
            user: tokens.create(user, name="t", expires=timedelta(hours=1), scopes=[]).token
            for user in ("looker", "user")
        }
        around = application(FakeEngine("a"), rules=LOOKER_MAY + USER_MAY, tokens=tokens)
        client = httpx.AsyncClient(
            base_url="http://127.0.0.1:8080",
            transport=httpx.ASGITransport(loop.run(around.__aenter__())),
        )
        document = loop.run(client.get("/openapi.json")).json()
        yield Api(loop, client, keys, document)
        loop.run(client.aclose())
        loop.run(around.__aexit__(None, None, None))


@pytest.fixture
def with_names(api: Api) -> Api:
    """The same, whose document says which models may be asked for: by chance nobody hits upon their names."""
    schemas = api.document["components"]["schemas"]
    paths = api.document["paths"]
    named = {name: naming(schemas[name]) for name in ("ChatCompletionBody", "CompletionBody")}
    model = {"name": "model", "in": "path", "required": True, "schema": {"enum": NAMES}}
    retrieving = {
        path: {"get": operations["get"] | {"parameters": [model]}}
        for path, operations in paths.items()
        if "{model}" in path
    }
    assert retrieving
    components = api.document["components"] | {"schemas": schemas | named}
    document = api.document | {"paths": paths | retrieving, "components": components}
    return Api(api.loop, api.client, api.keys, document)


def naming(body: dict[str, Any]) -> dict[str, Any]:
    """A body of a known model and what is needed besides: of everything optional, some part is always wrong."""
    needed = [name for name in (*body.get("required", ()), "stream") if name != "model"]
    properties = {name: body["properties"][name] for name in needed}
    return {
        "type": "object",
        "properties": properties | {"model": {"enum": NAMES}},
        "required": ["model", *needed],
        "additionalProperties": False,
    }


def check(answer: httpx.Response, case: Case, user: str) -> None:
    assert answer.status_code < 500, (case, answer.text)
    path = case.operation.path
    if not answer.is_success or path in PUBLIC:
        return
    if case.method.upper() == "POST":
        assert user == "user", (case, answer.text)
        assert case.body.get("model") in (SEEN, f"{SEEN}:main"), (case, answer.text)
        return
    if path.endswith("/models"):
        assert user == "looker", (case, answer.text)
        assert [model["id"] for model in answer.json()["data"]] == [f"{SEEN}:main"]
    else:
        assert answer.json()["id"] == f"{SEEN}:main", (case, answer.text)


@pytest.mark.parametrize("user", ["looker", "user"])
@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_breaks_the_server_or_gets_more_than_the_policy_allows(
    api: Api, mode: GenerationMode, user: str
) -> None:
    sweep(api, mode, user)


@pytest.mark.parametrize("user", ["looker", "user"])
def test_nor_does_one_that_knows_the_names_of_the_models(with_names: Api, user: str) -> None:
    statuses = sweep(with_names, GenerationMode.POSITIVE, user)
    assert {200, 404} <= statuses["/v1/models/{model}"], "what is asked for is sometimes there"
    posted = statuses["/v1/chat/completions"] | statuses["/v1/completions"]
    assert (200 in posted) is (user == "user")


def sweep(api: Api, mode: GenerationMode, user: str) -> dict[str, set[int]]:
    """Send a few requests to every operation; what was answered, by path."""
    return {
        operation.path: statuses_of(api, cases, user) for operation, cases in api.operations(mode)
    }


def statuses_of(api: Api, cases: SearchStrategy[Case], user: str) -> set[int]:
    found: set[int] = set()

    @few
    @given(case=cases)
    def ask(case: Case) -> None:
        answer = api.answer(case, user)
        found.add(answer.status_code)
        check(answer, case, user)

    ask()
    return found
