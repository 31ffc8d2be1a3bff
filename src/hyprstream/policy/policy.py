"""Who may do what. Knows principals, actions, resources and the text that rules them; knows no HTTP and no models.

Casbin decides. It reads every rule it is given, so an index gives it only those that could match.
"""

import logging
import shlex
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import casbin as _casbin  # pyright: ignore[reportMissingTypeStubs]
import structlog

from hyprstream.core.errors import Denied, HyprstreamError, Invalid, Unauthenticated
from hyprstream.core.ports import AuditLog, TextHistory
from hyprstream.core.principal import (
    Action,
    Decision,
    Door,
    Principal,
    Resource,
    covers,
)
from hyprstream.policy import rules
from hyprstream.policy.index import RuleIndex
from hyprstream.policy.rules import Rule, Rules

MAX_CACHED = 16_384
"""Decisions remembered for one version of a policy; the least recently asked go first."""

casbin: Any = _casbin
_log = structlog.stdlib.get_logger(__name__)
# It warns of every refusal; we write those to the audit log.
logging.getLogger("casbin").setLevel(logging.ERROR)


class RulesInForce:
    """One version of the policy, which never changes. Any thread may ask it."""

    def __init__(self, text: Rules, version: str | None = None) -> None:
        self.version = version
        self._index = RuleIndex(text)
        self._enforcer = _parsed_once(_enforcer())
        self._lock = threading.Lock()
        self._known = lru_cache(MAX_CACHED)(self._decide)

    def decide(self, subject: str, door: Door, action: Action, resource: Resource) -> Decision:
        """What these rules say. An error while deciding denies."""
        try:
            return self._known(subject, door, action, resource)
        except Exception:
            _log.exception("the policy could not decide", subject=subject, resource=str(resource))
            return Decision(False, "an error while deciding; the log has it")

    def has_rules_for(self, subject: str) -> bool:
        """Whether a rule allows the subject, or one of its roles, anything."""
        return self._index.allows_anything(self._index.names(subject))

    def _decide(self, subject: str, door: Door, action: Action, resource: Resource) -> Decision:
        names = self._index.names(subject)
        found = self._index.candidates(names, action, str(resource))
        candidates = sorted(found, key=_in_order_of_weight)
        rows = [[r.subject, r.door, r.resource, r.action, r.effect] for r in candidates]
        with self._lock:
            self._enforcer.model.model["p"]["p"].policy = rows
            is_allowed, deciding = self._enforcer.enforce_ex(
                names, door.value, str(resource), action.value
            )
        # What was found is one of our own lists, or an empty one.
        for rule, row in zip(candidates, rows, strict=True):
            if row is deciding:
                return Decision(bool(is_allowed), str(rule), rule.line)
        assert not is_allowed, "what Casbin allows, a rule allows"
        return Decision(False, "no rule allows it")


def _in_order_of_weight(rule: Rule) -> tuple[bool, int]:
    # Casbin stops at a deny, and otherwise names the last rule that matched: so it names the first in the text.
    is_allow = rule.effect == "allow"
    return is_allow, -rule.line if is_allow else rule.line


class CasbinPolicy:
    """The committed version of a policy's text, in force until a newer sound one is found.

    `owner` is the subject whom the files belong to: at the command line it may always read and manage the policy, as it could
    by editing the files, so that no mistake locks it out.
    """

    def __init__(self, history: TextHistory, *, owner: str, audit: AuditLog | None = None) -> None:
        self._history = history
        self._owner = owner
        self._audit = audit
        self._in_force = RulesInForce(Rules())
        self._lock = threading.Lock()
        self._refused: str | None = None
        self.problem: str | None = None
        """Why the newest version is not in force."""
        self.reload()

    @property
    def version(self) -> str | None:
        """Commit id of the version in force; None while there has been no sound one."""
        return self._in_force.version

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        decision = self.explain(principal, action, resource)
        if self._audit is not None:
            self._audit.record(principal, action, resource, decision)
        if decision.is_allowed:
            return
        if principal.is_anonymous:
            raise Unauthenticated(
                f"whoever shows no key may not {action} {resource}",
                hint="send a token as `Authorization: Bearer hypr_...` (hyprstream policy token create),"
                " or allow the users of this machine: hyprstream policy apply-template local",
            )
        # What a rule says is for those who may read the policy; whoever was refused learns only that there is one.
        why = decision.reason if decision.line is None else "a rule of the policy denies it"
        raise Denied(
            f"{principal} may not {action} {resource}: {why}",
            hint=self._way_out(principal, action, resource),
        )

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        return self.explain(principal, action, resource).is_allowed

    def explain(self, principal: Principal, action: Action, resource: Resource) -> Decision:
        """The decision and the rule that made it, without writing it down."""
        scopes = principal.scopes
        if scopes is not None and not any(scope.allows(action, resource) for scope in scopes):
            reach = ", ".join(map(str, scopes)) or "nothing"
            return Decision(False, f"outside the token's scopes: {reach}")
        if (
            resource.kind == "policy"
            and action in (Action.QUERY, Action.MANAGE)
            and principal.subject == self._owner
            and principal.door is Door.CLI
        ):
            return Decision(True, "built in: the policy's files belong to this user")
        return self._in_force.decide(principal.subject, principal.door, action, resource)

    def has_rules_for(self, subject: str) -> bool:
        """Whether a rule allows the subject, or one of its roles, anything."""
        return self._in_force.has_rules_for(subject)

    def reload(self) -> bool:
        """Put the newest version in force, if there is one; whether there was.

        A broken one leaves the last sound one in force, and `problem` says why. What could not be read at all is tried again
        at the next look: it may withdraw what somebody must no longer do.
        """
        with self._lock:
            newest: str | None = None
            try:
                newest = self._history.running_id()
                if newest == self.version:
                    self._refused = self.problem = None
                    return False
                if newest is not None and newest == self._refused:
                    return False
                text = "" if newest is None else self._history.at(newest)
                self._in_force = RulesInForce(rules.parse(text), newest)
            except (HyprstreamError, OSError) as error:
                self._refused = newest if isinstance(error, Invalid) else None
                self._complain(str(error))
                return False
            self._refused = self.problem = None
            _log.info("policy in force", version=newest)
            return True

    @contextmanager
    def watch(self, interval: float) -> Generator[None]:
        """A block during which a thread looks for a newer version every `interval` seconds."""
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(interval):
                try:
                    self.reload()
                except Exception:
                    _log.exception("the policy could not be looked at")

        thread = threading.Thread(target=look, name="policy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            _log.error("the policy stays as it was", version=self.version, problem=problem)
        self.problem = problem

    def _way_out(self, principal: Principal, action: Action, resource: Resource) -> str:
        if self.version is None and principal.subject.startswith("local:"):
            return "hyprstream policy apply-template local"
        question = ["hyprstream", "policy", "explain", principal.subject, str(resource), action]
        if principal.door is not Door.HTTP:
            question += ["--door", principal.door]
        # Names come from certificates and requests, and the command is made to be copied.
        return shlex.join(question)


def plain_enforcer(text: Rules) -> Any:
    """Casbin with every rule of a policy, and no index: slow, and what the index must agree with.

    Its `enforce` takes the subject with all its roles, the door, the resource and the action.
    """
    enforcer = _enforcer()
    enforcer.model.model["p"]["p"].policy = [
        [r.subject, r.door, r.resource, r.action, r.effect] for r in text.rules
    ]
    return enforcer


def _enforcer() -> Any:
    model = casbin.Model()
    model.load_model_from_text(_model_text())
    enforcer: Any = casbin.Enforcer(model)
    enforcer.add_function("covers", covers)
    enforcer.add_function("holds", _holds)
    return enforcer


@cache
def _model_text() -> str:
    return (resources.files("hyprstream.policy") / "model.conf").read_text("utf-8")


def _parsed_once(enforcer: Any) -> Any:
    """The same, without parsing its matcher anew for every request.

    CPython's `ast.parse` fails where the garbage collector lets another thread into it (github.com/python/cpython/issues/106905
    is one report), so a server with threads would deny a request now and then for no reason.
    """
    text = enforcer.model.model["m"]["m"].value
    matcher = enforcer._get_expression(text, enforcer.fm.get_functions())

    def parsed(*_: object) -> Any:
        return matcher

    enforcer._get_expression = parsed
    return enforcer


def _holds(names: tuple[str, ...], pattern: str) -> bool:
    return any(covers(pattern, name) for name in names)
