"""Decisions: Casbin's, over the rules an index finds, always those of one whole version."""

import random
import threading
from dataclasses import replace
from functools import cache

import casbin
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprstream.core.errors import Denied, Unauthenticated, Unavailable
from hyprstream.core.principal import (
    ANONYMOUS,
    POLICY,
    REGISTRY,
    Action,
    Decision,
    Door,
    Principal,
    Resource,
    Scope,
    covers,
    model_resource,
)
from hyprstream.core.refs import ModelRef
from hyprstream.policy.index import RuleIndex
from hyprstream.policy.policy import MAX_CACHED, CasbinPolicy, RulesInForce, plain_enforcer
from hyprstream.policy.rules import Role, Rule, Rules, parse
from support.memory_history import MemoryHistory

ALICE = Principal("token:alice")
OWNER = Principal("local:owner", Door.CLI)
MODEL = model_resource(ModelRef("qwen3"))


def policy(*texts: str) -> CasbinPolicy:
    return CasbinPolicy(MemoryHistory(*texts), owner=OWNER.subject)


SUBJECTS = ("token:alice", "token:bob", "local:carol", "anonymous", "peer:a:b")
SUBJECT_PATTERNS = (*SUBJECTS, "*", "token:*", "local", "tok*", "admin", "user", "peer:a")
OBJECTS = ("model:a:main", "model:a:x/y", "model:ab:main", "registry", "registry:7", "policy")
OBJECT_PATTERNS = (*OBJECTS, "*", "model:*", "model:a", "model:a:*", "mod*", "model:a:x*", "model")
ACTIONS = (Action.INFER, Action.QUERY, Action.WRITE)

rule_sets = st.builds(
    Rules,
    st.lists(
        st.tuples(
            st.sampled_from(SUBJECT_PATTERNS),
            st.sampled_from(("*", "cli", "http")),
            st.sampled_from(OBJECT_PATTERNS),
            st.sampled_from(("*", *ACTIONS)),
            st.sampled_from(("allow", "deny")),
        ),
        max_size=12,
    ).map(lambda rows: tuple(Rule(*row, line) for line, row in enumerate(rows, 1))),
    st.lists(
        st.tuples(st.sampled_from(SUBJECT_PATTERNS), st.sampled_from(("admin", "user"))),
        max_size=4,
    ).map(lambda rows: tuple(Role(*row, 100 + line) for line, row in enumerate(rows))),
)


questions = st.tuples(
    st.sampled_from(SUBJECTS),
    st.sampled_from(tuple(Door)),
    st.sampled_from(ACTIONS),
    st.sampled_from(OBJECTS).map(lambda text: Resource(*text.split(":", 1))),
)


def as_written(
    rules: Rules, subject: str, door: Door, action: Action, resource: Resource
) -> Decision:
    """What the rules say to somebody who reads all of them: the first deny, else the first allow, else nothing."""
    names = (subject, *rules.roles_of(subject))
    matching = [
        rule
        for rule in rules.rules
        if any(covers(rule.subject, name) for name in names)
        and rule.door in ("*", door)
        and rule.action in ("*", action)
        and covers(rule.resource, str(resource))
    ]
    for effect in ("deny", "allow"):
        for rule in matching:
            if rule.effect == effect:
                return Decision(effect == "allow", str(rule), rule.line)
    return Decision(False, "no rule allows it")


@settings(max_examples=300, deadline=None)
@given(rule_sets, st.lists(questions, min_size=1, max_size=20))
def test_the_index_decides_what_casbin_decides_with_every_rule(
    rules: Rules, asked: list[tuple[str, Door, Action, Resource]]
) -> None:
    in_force, plain = RulesInForce(rules), plain_enforcer(rules)
    for subject, door, action, resource in asked:
        names = (subject, *rules.roles_of(subject))
        decision = in_force.decide(subject, door, action, resource)
        expected = plain.enforce(names, door.value, str(resource), action.value)
        assert decision.is_allowed is expected
        assert decision == as_written(rules, subject, door, action, resource)


STOCK_MODEL = """
[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, dom, obj, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = (p.sub == "*" || g(r.sub, p.sub)) && (p.dom == "*" || p.dom == r.dom) && keyMatch(r.obj, p.obj) && (p.act == "*" || p.act == r.act)
"""
USERS, ROLES = ("token:alice", "token:bob", "anonymous"), ("admin", "user", "reader", "writer")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            Rule,
            st.sampled_from((*USERS, *ROLES, "*")),
            st.sampled_from(("*", "cli", "http")),
            st.sampled_from(("*", "model:*", "model:a:*", "registry", "reg*")),
            st.sampled_from(("*", *ACTIONS)),
            st.sampled_from(("allow", "deny")),
            st.just(0),
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(
        st.builds(Role, st.sampled_from((*USERS, *ROLES)), st.sampled_from(ROLES), st.just(0)),
        max_size=8,
    ),
)
def test_roles_and_stars_mean_what_they_mean_to_an_unmodified_casbin(
    rules: list[Rule], roles: list[Role]
) -> None:
    """Its own role manager and its own keyMatch, without any function of ours; circles of roles among them."""
    model = casbin.Model()
    model.load_model_from_text(STOCK_MODEL)
    stock = casbin.Enforcer(model)
    for rule in rules:
        stock.add_policy(rule.subject, rule.door, rule.resource, rule.action, rule.effect)
    for role in roles:
        stock.add_grouping_policy(role.subject, role.role)
    numbered = tuple(replace(rule, line=line) for line, rule in enumerate(rules, 1))
    in_force = RulesInForce(Rules(numbered, tuple(roles)))
    for user in USERS:
        for action in ACTIONS:
            for resource in (REGISTRY, Resource("model", "a:main"), Resource("model", "b:main")):
                expected = stock.enforce(user, "http", str(resource), action.value)
                decision = in_force.decide(user, Door.HTTP, action, resource)
                assert decision.is_allowed is expected, (user, action, resource)


def test_nothing_is_allowed_that_no_rule_allows() -> None:
    assert policy().explain(ALICE, Action.INFER, MODEL) == Decision(False, "no rule allows it")


def test_the_deciding_rule_is_named_with_its_line() -> None:
    decision = policy("# one\np, token:*, *, model:*, infer, allow\n").explain(
        ALICE, Action.INFER, MODEL
    )
    assert decision == Decision(True, "p, token:*, *, model:*, infer, allow", 2)


def test_deny_wins_wherever_it_stands() -> None:
    allow, deny = "p, token:*, *, *, *, allow\n", "p, token:alice, *, model:qwen3, *, deny\n"
    for text in (allow + deny, deny + allow):
        decision = policy(text).explain(ALICE, Action.INFER, MODEL)
        assert not decision.is_allowed
        assert "deny" in decision.reason


def test_a_rule_may_be_for_one_door_only() -> None:
    asked = policy("p, local:*, cli, *, manage, allow\n")
    assert asked.allows(Principal("local:ann", Door.CLI), Action.MANAGE, REGISTRY)
    assert not asked.allows(Principal("local:ann", Door.HTTP), Action.MANAGE, REGISTRY)


def test_a_token_reaches_no_further_than_its_scopes() -> None:
    asked = policy("p, token:*, *, *, *, allow\n")
    limited = Principal("token:alice", scopes=(Scope.parse("infer:model:qwen3"),))
    assert asked.allows(limited, Action.INFER, MODEL)
    decision = asked.explain(limited, Action.WRITE, MODEL)
    assert decision == Decision(False, "outside the token's scopes: infer:model:qwen3")
    assert not asked.allows(Principal("token:alice", scopes=()), Action.INFER, MODEL)


def test_scopes_grant_nothing() -> None:
    wide = Principal("token:alice", scopes=(Scope.parse("*"),))
    assert not policy().allows(wide, Action.INFER, MODEL)


def test_the_anonymous_are_asked_for_a_key_and_the_known_are_refused() -> None:
    with pytest.raises(Unauthenticated, match="may not infer model:qwen3:main"):
        policy().require(ANONYMOUS, Action.INFER, MODEL)
    with pytest.raises(Denied, match="no rule allows it") as refusal:
        policy("p, token:bob, *, *, *, allow\n").require(ALICE, Action.INFER, MODEL)
    assert refusal.value.hint == "hyprstream policy explain token:alice model:qwen3:main infer"


def test_whoever_is_refused_does_not_learn_what_the_policy_says() -> None:
    asked = policy("p, *, *, model:qwen3:main, write, deny\n")
    with pytest.raises(Denied) as refusal:
        asked.require(ALICE, Action.WRITE, MODEL)
    assert refusal.value.message == (
        "token:alice may not write model:qwen3:main: a rule of the policy denies it"
    )
    assert asked.explain(ALICE, Action.WRITE, MODEL).line == 1


def test_the_way_out_can_be_copied_into_a_shell_whatever_the_names_are() -> None:
    evil = Principal("peer:$(reboot); x", Door.WEBSOCKET)
    with pytest.raises(Denied) as refusal:
        policy("# nobody\n").require(evil, Action.QUERY, REGISTRY)
    assert refusal.value.hint == (
        "hyprstream policy explain 'peer:$(reboot); x' registry query --door ws"
    )


def test_the_users_of_a_fresh_machine_are_told_how_to_begin() -> None:
    with pytest.raises(Denied) as refusal:
        policy().require(Principal("local:ann", Door.CLI), Action.QUERY, REGISTRY)
    assert refusal.value.hint == "hyprstream policy apply-template local"
    with pytest.raises(Unauthenticated) as question:
        policy().require(ANONYMOUS, Action.QUERY, REGISTRY)
    assert question.value.hint is not None
    assert "hyprstream policy token create" in question.value.hint
    assert "hyprstream policy apply-template local" in question.value.hint


class Notes:
    """An audit log that remembers."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(
        self, principal: Principal, action: Action, resource: Resource, decision: Decision
    ) -> None:
        self.decisions.append(decision)


def test_every_required_decision_is_written_down_and_no_question() -> None:
    notes = Notes()
    text = "p, token:alice, *, *, infer, allow\n"
    asked = CasbinPolicy(MemoryHistory(text), owner=OWNER.subject, audit=notes)
    asked.allows(ALICE, Action.INFER, MODEL)
    asked.explain(ALICE, Action.INFER, MODEL)
    assert notes.decisions == []
    asked.require(ALICE, Action.INFER, MODEL)
    asked.require(OWNER, Action.QUERY, POLICY)
    with pytest.raises(Denied):
        asked.require(ALICE, Action.WRITE, MODEL)
    with pytest.raises(Denied):
        asked.require(replace(ALICE, scopes=()), Action.INFER, MODEL)
    assert [decision.is_allowed for decision in notes.decisions] == [True, True, False, False]
    assert [decision.line for decision in notes.decisions] == [1, None, None, None]
    assert notes.decisions[1].reason.startswith("built in: ")


def test_the_owner_can_always_mend_the_policy_and_only_at_the_command_line() -> None:
    locked = policy("p, *, *, *, *, deny\n")
    locked.require(OWNER, Action.MANAGE, POLICY)
    assert not locked.allows(OWNER, Action.MANAGE, REGISTRY)
    assert not locked.allows(Principal(OWNER.subject, Door.HTTP), Action.MANAGE, POLICY)


def test_a_broken_version_leaves_the_last_sound_one_in_force() -> None:
    history = MemoryHistory("p, token:alice, *, *, infer, allow\n")
    asked = CasbinPolicy(history, owner="")
    sound = asked.version
    history.put("p, token:alice, *, *, infer")
    assert not asked.reload()
    assert asked.allows(ALICE, Action.INFER, MODEL)
    assert asked.version == sound
    assert asked.problem is not None and "line 1, column 28" in asked.problem
    history.put("p, token:bob, *, *, infer, allow\n")
    assert asked.reload()
    assert asked.problem is None
    assert not asked.allows(ALICE, Action.INFER, MODEL)


class Unreliable(MemoryHistory):
    """Cannot be read while `is_broken`."""

    is_broken = False

    def at(self, revision: str = "HEAD") -> str:
        if self.is_broken:
            raise Unavailable("git did not answer")
        return super().at(revision)


def test_a_version_that_could_not_be_read_is_tried_again() -> None:
    history = Unreliable("p, token:alice, *, *, infer, allow\n")
    asked = CasbinPolicy(history, owner="")
    history.put("# nobody any more\n")
    history.is_broken = True
    assert not asked.reload()
    assert asked.problem == "git did not answer"
    assert asked.allows(ALICE, Action.INFER, MODEL)
    history.is_broken = False
    assert asked.reload()
    assert asked.problem is None
    assert not asked.allows(ALICE, Action.INFER, MODEL)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_problem_is_logged_once_however_often_it_is_met(is_broken: bool) -> None:
    history = Unreliable("p, token:alice, *, *, infer, allow\n")
    asked = CasbinPolicy(history, owner="")
    history.put("p, token:alice\n")
    history.is_broken = is_broken
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert not asked.reload()
    assert [line["log_level"] for line in logs] == ["error"]
    assert asked.problem is not None


def test_a_policy_that_was_broken_from_the_start_allows_nothing_and_says_so() -> None:
    asked = policy("p, *, *, *, *, alow\n")
    assert asked.version is None
    assert asked.problem is not None and "line 1, column 16" in asked.problem
    assert not asked.allows(ALICE, Action.INFER, MODEL)
    assert asked.allows(OWNER, Action.MANAGE, POLICY)


def test_a_draft_is_not_in_force() -> None:
    history = MemoryHistory("# nobody\n")
    asked = CasbinPolicy(history, owner="")
    history.write_draft("p, *, *, *, *, allow\n")
    assert not asked.reload()
    assert not asked.allows(ALICE, Action.INFER, MODEL)


def test_going_back_to_the_version_in_force_ends_the_problem() -> None:
    history = MemoryHistory("p, token:alice, *, *, infer, allow\n")
    asked = CasbinPolicy(history, owner="")
    history.put("p, token:alice\n")
    assert not asked.reload()
    history.drop()
    assert not asked.reload()
    assert asked.problem is None


def test_a_history_that_is_gone_denies() -> None:
    history = MemoryHistory("p, token:alice, *, *, infer, allow\n")
    asked = CasbinPolicy(history, owner="")
    history.drop()
    assert asked.reload()
    assert not asked.allows(ALICE, Action.INFER, MODEL)


def test_an_error_while_deciding_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = policy("p, *, *, *, *, allow\n")

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr("casbin.Enforcer.enforce_ex", fail)
        assert not asked.explain(ALICE, Action.INFER, MODEL).is_allowed
    assert [line["log_level"] for line in logs] == ["error"]
    assert asked.explain(ALICE, Action.INFER, MODEL).is_allowed


def test_deciding_parses_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ast.parse` fails now and then in a process with threads, and an error while deciding is a denial."""
    asked = policy("p, *, *, *, *, allow\n")

    def fail(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    with monkeypatch.context() as patch:
        patch.setattr("ast.parse", fail)
        assert asked.explain(ALICE, Action.INFER, MODEL).is_allowed


def test_no_more_decisions_are_remembered_than_there_is_room_for() -> None:
    in_force = RulesInForce(parse("p, token:*, *, model:*, infer, allow\n"))
    n_asked = 0

    class Counted:
        """A subject's roles, and how often they were looked for."""

        def __init__(self, subject: str) -> None:
            nonlocal n_asked
            n_asked += 1
            self.names = index_names(subject)

    index_names = in_force._index.names  # type: ignore[attr-defined]
    in_force._index.names = lambda subject: Counted(subject).names  # type: ignore[attr-defined]
    first = Resource("model", "0")
    for i in range(MAX_CACHED + 1):
        in_force.decide("token:a", Door.HTTP, Action.INFER, Resource("model", str(i)))
        in_force.decide("token:a", Door.HTTP, Action.INFER, first)
    assert n_asked == MAX_CACHED + 1
    in_force.decide("token:a", Door.HTTP, Action.INFER, Resource("model", "1"))
    assert n_asked == MAX_CACHED + 2


def test_the_length_of_a_name_somebody_sends_costs_nothing() -> None:
    in_force = RulesInForce(parse("p, *, *, model:a*, infer, allow\n"))
    resource = Resource("model", "a" * 1_000_000)
    assert in_force.decide("token:a", Door.HTTP, Action.INFER, resource).is_allowed


def test_the_same_rule_many_times_is_one_candidate() -> None:
    index = RuleIndex(parse("p, token:a, *, model:x, infer, allow\n" * 1_000))
    assert [rule.line for rule in index.candidates(("token:a",), "infer", "model:x:main")] == [1]


def test_who_has_any_rule_is_known() -> None:
    asked = policy(
        "g, local:*, user\np, user, *, model:*, infer, allow\np, peer:x, *, *, *, deny\n"
    )
    assert asked.has_rules_for("local:ann")
    assert not asked.has_rules_for("anonymous")
    assert not asked.has_rules_for("peer:x")


N_EDITS = 100
STEP_SECONDS = 30.0
"""Until a thread that ought to go on is given up."""
ASKED = tuple(
    (subject, door, action, Resource(*text.split(":", 1)))
    for subject in SUBJECTS
    for door in (Door.CLI, Door.HTTP)
    for action in ACTIONS
    for text in OBJECTS
)


def random_policy(random: random.Random, n: int) -> str:
    """A text of about thirty rules; comments in front of them, so that the same rule has another line in another version."""
    lines = [f"# version {n}"] * random.randrange(1, 40)
    for _ in range(random.randrange(30)):
        words = (
            random.choice(SUBJECT_PATTERNS),
            random.choice(("*", "cli", "http")),
            random.choice(OBJECT_PATTERNS),
            random.choice(("*", *ACTIONS)),
            random.choice(("allow", "allow", "deny")),
        )
        lines.append(f"p, {', '.join(words)}")
    return "\n".join(lines) + "\n"


class Asker(threading.Thread):
    """Asks all the time, and keeps what it was told between which two versions."""

    def __init__(self, policy: CasbinPolicy, seed: int, is_over: threading.Event) -> None:
        super().__init__()
        self.told: set[tuple[int, int, int, Decision]] = set()
        """First version it can be of, the last one, the question, the answer."""
        self._seen = 0
        self._has_asked = threading.Condition()
        self._policy = policy
        self._random = random.Random(seed)
        self._is_over = is_over

    def run(self) -> None:
        while not self._is_over.is_set():
            number = self._random.randrange(len(ASKED))
            subject, door, action, resource = ASKED[number]
            first = int(self._policy.version or 0)
            answer = self._policy.explain(Principal(subject, door), action, resource)
            self.told.add((first, int(self._policy.version or 0), number, answer))
            with self._has_asked:
                self._seen = first
                self._has_asked.notify()

    def has_seen(self, version: int) -> bool:
        """Wait until it has asked while this version, or a later one, was in force."""
        with self._has_asked:
            return self._has_asked.wait_for(lambda: self._seen >= version, STEP_SECONDS)


def test_every_decision_during_a_hundred_edits_is_that_of_a_whole_version() -> None:
    choice = random.Random(8)
    texts = [random_policy(choice, n) for n in range(N_EDITS + 1)]
    history = MemoryHistory(texts[0])
    asked = CasbinPolicy(history, owner="")
    is_over = threading.Event()
    askers = [Asker(asked, seed, is_over) for seed in range(4)]
    for asker in askers:
        asker.start()
    try:
        for version, text in enumerate(texts[1:], 2):
            history.put(text)
            assert asked.reload()
            assert all(asker.has_seen(version) for asker in askers)
    finally:
        is_over.set()
        for asker in askers:
            asker.join()
    versions = [parse(text) for text in texts]

    @cache
    def expected(version: int, number: int) -> Decision:
        return as_written(versions[version - 1], *ASKED[number])

    for asker in askers:
        assert {first for first, _, _, _ in asker.told} >= set(range(2, N_EDITS + 2))
        for first, last, number, answer in asker.told:
            possible = [expected(version, number) for version in range(first, last + 1)]
            assert answer in possible, (first, last, ASKED[number])


def test_a_running_policy_notices_a_new_version() -> None:
    history = MemoryHistory("")
    asked = CasbinPolicy(history, owner="")
    with asked.watch(0.01):
        history.put("p, token:alice, *, *, infer, allow\n")
        waited = threading.Event()
        for _ in range(500):
            if asked.allows(ALICE, Action.INFER, MODEL):
                break
            waited.wait(0.01)
    assert asked.allows(ALICE, Action.INFER, MODEL)
