"""Who may do what to models: each use case asks for its own right first, and what is hidden stays hidden."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from hyprstream.core.errors import Conflict, Denied, HyprstreamError, Invalid, NotFound
from hyprstream.core.principal import Action, Principal, Resource, covers
from hyprstream.core.refs import ModelRef
from hyprstream.registry.pull import NO_ANSWERS
from hyprstream.registry.registry import Registry
from hyprstream.services.registry import RegistryTools
from support.gguf_writer import sound

ALICE = Principal("local:alice")
MAIN, NEXT = ModelRef("m"), ModelRef("m", "next")

UseCase = Callable[[RegistryTools], object]

RIGHTS: dict[str, tuple[str, UseCase]] = {
    "list": ("query registry", lambda t: t.registry.list(ALICE)),
    "show": ("query model:m:main", lambda t: t.registry.show(ALICE, MAIN)),
    "show_file": ("query registry", lambda t: t.registry.show_file(ALICE, Path("x"))),
    "inspect": ("query model:m:main", lambda t: t.registry.inspect(ALICE, MAIN)),
    "clone": ("write registry", lambda t: t.registry.clone(ALICE, "https://example.com/m")),
    "pull": ("write registry", lambda t: t.registry.pull(ALICE, "m", None, None, NO_ANSWERS)),
    "removal": ("write registry", lambda t: t.registry.removal(ALICE, "m")),
    "rename": ("write registry", lambda t: t.registry.rename(ALICE, "m", "n")),
    "gc": ("manage registry", lambda t: t.registry.gc(ALICE)),
    "verify": ("manage registry", lambda t: t.registry.verify(ALICE)),
    "dedup_report": ("query registry", lambda t: t.registry.dedup_report(ALICE)),
    "history": ("query registry", lambda t: t.registry.history(ALICE)),
    "undo": ("manage registry", lambda t: t.registry.undo(ALICE)),
    "names": ("query model:m", lambda t: t.repositories.names(ALICE, "m")),
    "status": ("query model:m:main", lambda t: t.repositories.status(ALICE, MAIN)),
    "log": ("query model:m:main", lambda t: t.repositories.log(ALICE, MAIN, 1)),
    "diff": ("query model:m:main", lambda t: t.repositories.diff(ALICE, MAIN, NEXT)),
    "commit": ("write model:m:main", lambda t: t.repositories.commit(ALICE, MAIN, "x")),
    "branch": ("write model:m:next", lambda t: t.repositories.branch(ALICE, NEXT, MAIN)),
    "delete_branch": ("write model:m:next", lambda t: t.repositories.delete_branch(ALICE, NEXT)),
    "tag": ("write model:m:next", lambda t: t.repositories.tag(ALICE, NEXT, MAIN)),
    "delete_tag": ("write model:m:next", lambda t: t.repositories.delete_tag(ALICE, NEXT)),
    "merge": ("write model:m:main", lambda t: t.repositories.merge(ALICE, MAIN, NEXT)),
    "merge_abort": ("write model:m:main", lambda t: t.repositories.merge_abort(ALICE, MAIN)),
    "merge_continue": ("write model:m:main", lambda t: t.repositories.merge_continue(ALICE, MAIN)),
    "checkout": ("write model:m:main", lambda t: t.repositories.checkout(ALICE, MAIN)),
    "add_worktree": ("write model:m:next", lambda t: t.repositories.add_worktree(ALICE, NEXT)),
    "remove_worktree": (
        "write model:m:next",
        lambda t: t.repositories.remove_worktree(ALICE, NEXT),
    ),
    "remotes": ("query model:m", lambda t: t.repositories.remotes(ALICE, "m")),
    "add_remote": ("write model:m", lambda t: t.repositories.add_remote(ALICE, "m", "o", "u")),
    "remove_remote": ("write model:m", lambda t: t.repositories.remove_remote(ALICE, "m", "o")),
    "push": ("write model:m:main", lambda t: t.repositories.push(ALICE, MAIN, "o")),
    "update": ("write model:m:main", lambda t: t.repositories.update(ALICE, MAIN)),
}
"""The right each use case needs, and how it is called."""


class Rules:
    """A policy of rules `(+|-)action pattern`; a minus wins."""

    def __init__(self, *rules: str) -> None:
        self._rules = [(rule[0] == "+", *rule[1:].split()) for rule in rules]
        self.asked: list[str] = []

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        matching = [
            is_allowed
            for is_allowed, act, pattern in self._rules
            if act in ("*", action) and covers(pattern, str(resource))
        ]
        return bool(matching) and all(matching)

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        self.asked.append(f"{action} {resource}")
        if not self.allows(principal, action, resource):
            raise Denied(f"{principal} may not {action} {resource}")


class Untouchable:
    """Stands for a registry nobody may reach."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was used before the policy allowed it")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with the model `m`: the branches main and next, at one commit."""
    registry = Registry(tmp_path / "models")
    file = tmp_path / "m.gguf"
    file.write_bytes(sound().data)
    everything = RegistryTools.of(Rules("+* *"), registry)
    list(everything.registry.pull(ALICE, str(file), None, None, NO_ANSWERS))
    everything.repositories.branch(ALICE, NEXT, MAIN)
    return registry


@pytest.mark.parametrize("name", RIGHTS)
def test_each_use_case_asks_for_its_own_right_first(name):
    right, use_case = RIGHTS[name]
    seeing = Rules("+query *") if not right.startswith("query") else Rules()
    tools = RegistryTools.of(seeing, Untouchable())  # type: ignore[arg-type]
    with pytest.raises((Denied, NotFound)):
        use_case(tools)
    assert seeing.asked == [right]


def test_a_list_leaves_out_what_may_not_be_queried(registry):
    tools = RegistryTools.of(Rules("+* *", "-query model:m:next"), registry)
    assert [one.entry.ref for one in tools.registry.list(ALICE)] == [MAIN]
    names = tools.repositories.names(ALICE, "m")
    assert (set(names.branches), set(names.worktrees)) == ({"main"}, {"main"})
    assert set(tools.registry.inspect(ALICE, MAIN).names.branches) == {"main"}


def test_a_commit_is_what_its_branches_are(registry):
    commit = registry.repository("m").resolve("main")
    by_commit = ModelRef("m", commit)
    both = RegistryTools.of(Rules("+* *", "-query model:m:main"), registry)
    assert both.registry.show(ALICE, by_commit).commit == commit
    neither = Rules("+* *", "-query model:m:main", "-query model:m:next")
    for ref in (by_commit, ModelRef("m", commit[:9]), ModelRef("m", f"sha256:{'0' * 64}")):
        with pytest.raises(NotFound):
            RegistryTools.of(neither, registry).registry.show(ALICE, ref)


def test_reading_another_branch_is_needed_to_merge_or_branch_from_it(registry):
    tools = RegistryTools.of(Rules("+* *", "-query model:m:next"), registry)
    with pytest.raises(NotFound):
        tools.repositories.merge(ALICE, MAIN, NEXT)
    with pytest.raises(NotFound):
        tools.repositories.branch(ALICE, ModelRef("m", "copy"), NEXT)
    assert set(registry.repository("m").branches()) == {"main", "next"}


@pytest.mark.parametrize(
    ("source", "error"), [(ModelRef("other"), NotFound), (ModelRef("m", "absent"), NotFound)]
)
def test_only_what_is_there_can_be_merged(registry, source, error):
    with pytest.raises(error):
        RegistryTools.of(Rules("+* *"), registry).repositories.merge(ALICE, MAIN, source)


def test_versions_of_two_models_cannot_be_merged(registry):
    tools = RegistryTools.of(Rules("+* *"), registry)
    path = registry.resolve(MAIN).path
    list(tools.registry.pull(ALICE, path, ModelRef("other"), None, NO_ANSWERS))
    with pytest.raises(Invalid):
        tools.repositories.merge(ALICE, MAIN, ModelRef("other"))


def test_what_is_no_branch_cannot_change(registry):
    tools = RegistryTools.of(Rules("+* *"), registry)
    tools.repositories.tag(ALICE, ModelRef("m", "v1"), MAIN)
    for change in (
        lambda: tools.repositories.commit(ALICE, ModelRef("m", "v1"), "x"),
        lambda: tools.repositories.checkout(ALICE, ModelRef("m", "v1")),
        lambda: tools.repositories.push(ALICE, ModelRef("m", "v1"), "origin"),
    ):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.hint == "hyprstream branch m NAME --from v1"


def test_a_model_by_its_uuid_is_the_same_model(registry):
    tools = RegistryTools.of(Rules("+* *", "-write model:m"), registry)
    uuid = registry.id_of("m")
    assert tools.repositories.names(ALICE, uuid).name == "m"
    with pytest.raises(HyprstreamError) as caught:
        tools.repositories.add_remote(ALICE, uuid, "origin", "https://example.com/m.git")
    assert isinstance(caught.value, Denied)
