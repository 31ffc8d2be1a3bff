"""Who may issue and withdraw tokens."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Denied, Invalid, NotFound
from hyprstream.core.principal import Principal, Scope
from hyprstream.services.policy import PolicyTools
from hyprstream.services.tokens import TokenService
from support.policy_tools import ME, tools_in

MONTH = timedelta(days=30)
LOCAL = "p, local:*, *, *, *, allow\n"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[PolicyTools]:
    with tools_in(tmp_path / "data") as tools:
        tools.policy.apply_template(ME, "local")
        yield tools


@pytest.fixture
def service(tools: PolicyTools) -> TokenService:
    return tools.tokens


def test_a_token_carries_its_user_and_scopes(service: TokenService) -> None:
    issued = service.create(ME, "alice", name="dev", expires=MONTH, scopes=[Scope.parse("model:*")])
    assert issued.token.startswith("hypr_")
    assert (issued.record.user, issued.record.name) == ("alice", "dev")
    assert [str(scope) for scope in issued.record.scopes or ()] == ["model:*"]


def test_whether_the_policy_allows_its_user_anything_is_told(
    tools: PolicyTools, service: TokenService
) -> None:
    assert not service.create(ME, "alice", name="dev", expires=MONTH).is_useful
    rule = "p, token:alice, *, model:smollm2, infer, allow\n"
    tools.policy.open_draft(ME).write_text(LOCAL + rule)
    tools.policy.apply(ME)
    assert service.create(ME, "alice", name="prod", expires=MONTH).is_useful


def test_only_those_whom_the_policy_allows_issue_tokens(service: TokenService) -> None:
    with pytest.raises(Denied):
        service.create(Principal("token:alice"), "alice", name="dev", expires=MONTH)


def test_a_limited_token_makes_no_others(tools: PolicyTools, service: TokenService) -> None:
    tools.policy.open_draft(ME).write_text(LOCAL + "p, token:alice, *, token, *, allow\n")
    tools.policy.apply(ME)
    limited = Principal("token:alice", scopes=(Scope.parse("token:*"),))
    with pytest.raises(Denied, match="scopes"):
        service.create(limited, "alice", name="wide", expires=MONTH)
    unlimited = Principal("token:alice")
    issued = service.create(unlimited, "alice", name="dev", expires=MONTH)
    with pytest.raises(Denied, match="scopes"):
        service.rotate(limited, issued.record.id)


def test_whoever_may_see_the_tokens_of_one_user_sees_no_others(
    tools: PolicyTools, service: TokenService
) -> None:
    service.create(ME, "alice", name="dev", expires=MONTH)
    service.create(ME, "bob", name="dev", expires=MONTH)
    tools.policy.open_draft(ME).write_text(LOCAL + "p, token:alice, *, token:alice, *, allow\n")
    tools.policy.apply(ME)
    alice = Principal("token:alice")
    assert [record.user for record in service.list(alice, "alice")] == ["alice"]
    for call in (lambda: service.list(alice), lambda: service.list(alice, "bob")):
        with pytest.raises(Denied):
            call()
    (bobs,) = service.list(ME, "bob")
    with pytest.raises(NotFound):
        service.revoke(alice, bobs.id, user="alice")
    with pytest.raises(Denied):
        service.revoke(alice, bobs.id)


def test_a_revoked_token_is_listed_only_on_request(service: TokenService) -> None:
    issued = service.create(ME, "alice", name="dev", expires=MONTH)
    assert service.revoke(ME, "dev").id == issued.record.id
    assert service.list(ME) == []
    assert [r.id for r in service.list(ME, include_revoked=True)] == [issued.record.id]


def test_a_name_that_two_tokens_have_must_be_an_id(service: TokenService) -> None:
    first = service.create(ME, "alice", name="dev", expires=MONTH)
    service.create(ME, "bob", name="dev", expires=MONTH)
    with pytest.raises(Conflict) as caught:
        service.revoke(ME, "dev")
    assert first.record.id in (caught.value.hint or "")
    assert service.revoke(ME, "dev", user="alice").id == first.record.id


def test_a_token_that_is_not_there_is_not_found(service: TokenService) -> None:
    with pytest.raises(NotFound):
        service.rotate(ME, "nothing")


def test_a_rotated_token_keeps_its_name_and_scopes(service: TokenService) -> None:
    scopes = [Scope.parse("infer:model:*")]
    old = service.create(ME, "alice", name="dev", expires=MONTH, scopes=scopes)
    new = service.rotate(ME, "dev")
    assert new.token != old.token
    assert new.record.id != old.record.id
    assert (new.record.name, new.record.scopes) == ("dev", old.record.scopes)
    assert [record.id for record in service.list(ME)] == [new.record.id]


@pytest.mark.parametrize("scope", ["bogus:*", "infr:model:*", "models*", "infer:infer:*"])
def test_a_scope_that_could_never_cover_anything_is_refused(
    service: TokenService, scope: str
) -> None:
    with pytest.raises(Invalid, match="covers nothing"):
        service.create(ME, "alice", name="dev", expires=MONTH, scopes=[Scope.parse(scope)])
    assert service.list(ME) == []


@pytest.mark.parametrize("scope", ["*", "mod*", "infer:*", "registry", "model:smollm2:main"])
def test_a_scope_that_could_cover_something_is_taken(service: TokenService, scope: str) -> None:
    scopes = [Scope.parse(scope)]
    assert service.create(ME, "alice", name="dev", expires=MONTH, scopes=scopes).record.scopes
