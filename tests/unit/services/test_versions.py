"""What a principal may do to a version is the same whatever name it uses for it."""

from dataclasses import dataclass

import pytest

from hyprstream.core.errors import Conflict, Denied, HyprstreamError, NotFound, Unauthenticated
from hyprstream.core.principal import ANONYMOUS, Action, Principal, Resource, covers
from hyprstream.core.refs import ModelRef
from hyprstream.services.versions import Versions

ALICE = Principal("local:alice")
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
MAIN, SECRET = "a" * 40, "b" * 40
BRANCHES = {"main": MAIN, "copy": MAIN, "secret": SECRET}
OTHERS = {"v1": MAIN, MAIN: MAIN, MAIN[:7]: MAIN, SECRET[:7]: SECRET, "lost": "c" * 40}


@dataclass(frozen=True)
class Entry:
    ref: ModelRef


class Names:
    """`m` with the branches main, copy (the same commit) and secret, a tag on main, and a commit on no branch."""

    def entries(self) -> list[Entry]:
        return [Entry(ModelRef("m", branch)) for branch in BRANCHES]

    def canonical(self, ref: ModelRef) -> ModelRef:
        if ref.name not in ("m", UUID):
            raise NotFound(f"no model {ref}", hint="did you mean m:secret?")
        return ModelRef("m", ref.ref)

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        if ref.ref == "twice":
            raise Conflict(f"'twice' means {MAIN} and {SECRET}")
        commit = (BRANCHES | OTHERS).get(ref.ref)
        if commit is None:
            raise NotFound(f"no version {ref}", hint="did you mean m:secret?")
        return tuple(ModelRef("m", name) for name, at in BRANCHES.items() if at == commit)


class Rules:
    """A policy of rules `(+|-)action pattern`; a minus wins."""

    def __init__(self, *rules: str) -> None:
        self._rules = [(rule[0] == "+", *rule[1:].split()) for rule in rules]
        self.asked: list[tuple[Action, str]] = []

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        matching = [
            is_allowed
            for is_allowed, act, pattern in self._rules
            if act in ("*", action) and covers(pattern, str(resource))
        ]
        return bool(matching) and all(matching)

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        self.asked.append((action, str(resource)))
        if not self.allows(principal, action, resource):
            if principal.is_anonymous:
                raise Unauthenticated(f"whoever shows no key may not {action} {resource}")
            raise Denied(f"{principal} may not {action} {resource}")


def refusal(
    rules: Rules, action: Action, ref: str, principal: Principal = ALICE
) -> HyprstreamError:
    with pytest.raises(HyprstreamError) as caught:
        Versions(rules, Names()).require(principal, action, ModelRef.parse(ref))
    return caught.value


EVERYTHING = "+* model:*"
OTHER_NAMES = [f"m:{SECRET[:7]}", f"{UUID}:secret", f"{UUID}:{SECRET[:7]}"]


@pytest.mark.parametrize("ref", ["m", "m:v1", f"m:{MAIN}", f"m:{MAIN[:7]}", UUID, f"{UUID}:v1"])
def test_every_name_of_an_allowed_version_leads_to_it(ref):
    canonical = Versions(Rules(EVERYTHING), Names()).require(
        ALICE, Action.INFER, ModelRef.parse(ref)
    )
    assert canonical == ModelRef("m", ModelRef.parse(ref).ref)


@pytest.mark.parametrize("ref", ["m:secret", *OTHER_NAMES])
def test_a_rule_on_a_branch_holds_for_every_name_of_its_commit(ref):
    rules = Rules(EVERYTHING, "-infer model:m:secret")
    assert isinstance(refusal(rules, Action.INFER, ref), Denied)


@pytest.mark.parametrize("ref", ["m:secret", *OTHER_NAMES])
def test_what_may_not_be_queried_looks_like_what_is_not_there(ref):
    rules = Rules(EVERYTHING, "-* model:m:secret")
    for action in (Action.QUERY, Action.INFER, Action.WRITE):
        hidden, absent = refusal(rules, action, ref), refusal(rules, action, "m:absent")
        assert type(hidden) is type(absent) is NotFound
        assert hidden.message.replace(ref, "m:absent") == absent.message
        assert hidden.hint == absent.hint
        assert "secret" not in f"{absent.message} {absent.hint}"


def test_a_name_that_means_a_hidden_commit_and_another_is_no_name():
    rules = Rules(EVERYTHING, "-* model:m:secret")
    twice, absent = refusal(rules, Action.INFER, "m:twice"), refusal(rules, Action.INFER, "m:absnt")
    assert type(twice) is NotFound
    assert SECRET not in f"{twice.message} {twice.hint}"
    assert twice.message == absent.message.replace("m:absnt", "m:twice")


ANONYMOUS_SEES = (EVERYTHING, "+query registry", "-* model:m:secret", "-* model:hidden")


@pytest.mark.parametrize("ref", ["m:secret", "hidden", *OTHER_NAMES])
def test_the_anonymous_who_see_some_models_cannot_tell_the_hidden_from_the_absent(ref):
    for action in (Action.QUERY, Action.INFER):
        assert type(refusal(Rules(*ANONYMOUS_SEES), action, ref, ANONYMOUS)) is NotFound


def test_the_anonymous_who_see_nothing_are_asked_for_a_key():
    assert type(refusal(Rules(), Action.INFER, "m", ANONYMOUS)) is Unauthenticated
    assert type(refusal(Rules(), Action.INFER, "absent", ANONYMOUS)) is Unauthenticated


def test_the_anonymous_who_may_only_look_are_asked_for_a_key():
    assert type(refusal(Rules("+query model:*"), Action.INFER, "m", ANONYMOUS)) is Unauthenticated


def test_one_allowed_branch_suffices_for_the_commit_it_shares():
    rules = Rules(EVERYTHING, "-* model:m:main")
    versions = Versions(rules, Names())
    assert versions.require(ALICE, Action.INFER, ModelRef("m", "v1")) == ModelRef("m", "v1")
    assert isinstance(refusal(rules, Action.INFER, "m"), NotFound)


def test_a_rule_on_the_name_as_written_is_asked_first():
    rules = Rules(EVERYTHING, "-infer model:m:v1")
    assert isinstance(refusal(rules, Action.INFER, "m:v1"), Denied)
    assert rules.asked == [(Action.INFER, "model:m:v1")]


def test_a_version_on_no_branch_is_judged_as_the_model_itself():
    lost = ModelRef("m", "lost")
    assert Versions(Rules(EVERYTHING), Names()).require(ALICE, Action.INFER, lost) == lost
    assert isinstance(refusal(Rules("+* model:m:*"), Action.INFER, "m:lost"), NotFound)


def test_who_keeps_the_models_and_sees_all_is_told_what_the_registry_says():
    rules = Rules("+* *")
    assert refusal(rules, Action.QUERY, "m:absent").hint == "did you mean m:secret?"
    assert type(refusal(rules, Action.QUERY, "m:twice")) is Conflict


def test_who_only_uses_models_is_not_told_what_is_near():
    """The registry names branches without a worktree too, of which nobody has asked the policy."""
    hint = refusal(Rules(EVERYTHING), Action.QUERY, "m:absent").hint
    assert hint is not None
    assert "secret" not in hint


async def test_admitting_answers_as_requiring_does():
    versions = Versions(Rules(EVERYTHING, "-infer model:m:secret"), Names())
    assert await versions.admit(ALICE, Action.INFER, ModelRef(UUID)) == ModelRef("m")
    with pytest.raises(Denied):
        await versions.admit(ALICE, Action.INFER, ModelRef("m", SECRET[:7]))


def test_a_new_version_is_judged_by_its_name_and_its_models_name():
    versions = Versions(Rules(EVERYTHING, "-write model:m:release"), Names())
    assert versions.require_new(ALICE, Action.WRITE, ModelRef(UUID, "new")) == ModelRef("m", "new")
    with pytest.raises(Denied):
        versions.require_new(ALICE, Action.WRITE, ModelRef(UUID, "release"))


def test_a_whole_model_is_judged_without_a_version():
    versions = Versions(Rules("+* model:*", "-write model:m"), Names())
    assert versions.require_model(ALICE, Action.QUERY, UUID) == "m"
    for name in ("m", UUID):
        with pytest.raises(Denied):
            versions.require_model(ALICE, Action.WRITE, name)
