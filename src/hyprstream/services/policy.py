"""Reading and changing the policy: draft, running, history. Knows what a change needs; the rules' meaning is the policy's."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyprstream.core.errors import Conflict, Invalid, NotFound
from hyprstream.core.ports import TextHistory
from hyprstream.core.principal import (
    POLICY,
    Action,
    Decision,
    Door,
    Principal,
    Resource,
    covers,
)
from hyprstream.core.versions import TextVersion
from hyprstream.policy import rules, templates
from hyprstream.policy.rules import Rule, Rules
from hyprstream.services.audit import AuditService
from hyprstream.services.tokens import TokenService

if TYPE_CHECKING:
    from hyprstream.policy.policy import CasbinPolicy

HEAD = "HEAD"
BEFORE_HEAD = "HEAD~1"
N_ID = 8
"""Hexadecimal digits of a version's id in a message."""
_STEPS_BACK = re.compile(r"HEAD(?:\^|~([0-9]{1,6}))")

DEFAULT_MESSAGE = "apply the draft"
NEW_DRAFT = """\
# Who may do what. Nothing is allowed unless a rule allows it, and a deny wins over every allow.
#
# p, subject, door, resource, action, allow|deny
# g, subject, role
#
# p, token:alice, *, model:smollm2, infer, allow
"""


@dataclass(frozen=True, slots=True)
class Overview:
    """The running policy."""

    version: TextVersion | None
    """None before the first; then everything is denied."""
    text: str
    rules: Rules
    problem: str | None
    """Why the version in force is an older one."""
    has_draft: bool
    """Whether the draft says something else."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule about whoever asks, and why it did or did not apply."""

    rule: Rule
    misses: tuple[str, ...]
    """Which of `door`, `resource`, `action` it does not cover; empty where it applies."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and everything that was considered for it."""

    decision: Decision
    names: tuple[str, ...]
    """The subject and every role it has: what a rule's subject may cover."""
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A new text of the policy beside the one in force."""

    old: str
    new: str
    old_name: str = "running"
    new_name: str = "draft"
    is_done: bool = False
    version: TextVersion | None = None
    """What it became; None where nothing came into force."""

    @property
    def is_empty(self) -> bool:
        """Whether both say the same."""
        return self.old == self.new

    @property
    def diff(self) -> list[str]:
        """Lines of a unified diff."""
        return list(
            difflib.unified_diff(
                self.old.splitlines(),
                self.new.splitlines(),
                self.old_name,
                self.new_name,
                lineterm="",
            )
        )


@dataclass(frozen=True, slots=True)
class Template:
    """A built-in set of rules."""

    name: str
    summary: str
    """What it grants, in a line."""


class PolicyService:
    """Shows, explains and changes the policy. A change takes force only if it is sound."""

    def __init__(self, policy: "CasbinPolicy", history: TextHistory) -> None:
        self._policy = policy
        self._history = history

    def show(self, principal: Principal) -> Overview:
        """The running policy.

        Raises:
            Invalid: it is broken, so that an older one is in force or none.
        """
        self._policy.require(principal, Action.QUERY, POLICY)
        text = self._running()
        return Overview(
            version=next(iter(self._history.log(1)), None),
            text=text,
            rules=rules.parse(text),
            problem=self._policy.problem,
            has_draft=self._visible_draft() != text,
        )

    def text(self, principal: Principal) -> str:
        """What the running policy says, sound or not."""
        self._policy.require(principal, Action.QUERY, POLICY)
        return self._running()

    def check(
        self, principal: Principal, asked: Principal, action: Action, resource: Resource
    ) -> Decision:
        """Whether `asked` may do `action` to `resource`, and why.

        Raises:
            Invalid: the newest version is broken, and what running servers still go by is not known here.
        """
        self._policy.require(principal, Action.QUERY, POLICY)
        if self._policy.problem is not None:
            rules.parse(self._running())
        return self._policy.explain(asked, action, resource)

    def explain(
        self, principal: Principal, asked: Principal, action: Action, resource: Resource
    ) -> Explanation:
        """The same, with every rule about `asked`."""
        self._policy.require(principal, Action.QUERY, POLICY)
        decision = self._policy.explain(asked, action, resource)
        parsed = rules.parse(self._running())
        names = (asked.subject, *parsed.roles_of(asked.subject))
        candidates = _candidates(parsed.rules, names, asked.door, action, resource)
        return Explanation(decision, names, tuple(candidates))

    def templates(self, principal: Principal) -> list[Template]:
        """The built-in sets of rules."""
        self._policy.require(principal, Action.QUERY, POLICY)
        return [Template(name, _summary(templates.text(name))) for name in templates.names()]

    def history(self, principal: Principal, limit: int) -> list[TextVersion]:
        """The versions, newest first; the first of them is the running one."""
        self._policy.require(principal, Action.QUERY, POLICY)
        return self._history.log(limit)

    def diff(self, principal: Principal, against: str = HEAD) -> Change:
        """The draft beside the running policy or an older version; neither need be sound.

        Raises:
            NotFound: there is no such version.
        """
        self._policy.require(principal, Action.QUERY, POLICY)
        old = self._running() if against == HEAD else self._version(against)[1]
        name = "running" if against == HEAD else against
        return Change(old, self._visible_draft(), name, "draft")

    def validate(self, principal: Principal) -> Change:
        """The draft beside the running policy.

        Raises:
            Invalid: the draft is not a policy; names line and column.
        """
        self._policy.require(principal, Action.QUERY, POLICY)
        return self._sound(Change(self._running(), self._draft()))

    def open_draft(self, principal: Principal) -> Path:
        """The file to edit; a new one explains the format."""
        self._policy.require(principal, Action.MANAGE, POLICY)
        if not self._history.draft_path.exists():
            self._history.write_draft(self._running() or NEW_DRAFT)
        return self._history.draft_path

    def apply(
        self, principal: Principal, message: str | None = None, is_dry_run: bool = False
    ) -> Change:
        """Put the draft in force.

        Raises:
            Invalid: the draft is not a policy; names line and column.
        """
        self._policy.require(principal, Action.MANAGE, POLICY)
        change = self._sound(Change(self._running(), self._draft()))
        return change if is_dry_run else self._commit(change, message or DEFAULT_MESSAGE)

    def rollback(
        self, principal: Principal, revision: str = BEFORE_HEAD, is_dry_run: bool = False
    ) -> Change:
        """Put an older version in force, as a new version. `HEAD` gives up the draft instead.

        Before the first version there is the empty policy, which denies everything.

        Raises:
            NotFound: there is no such version.
            Conflict: the draft says something that was never in force.
            Invalid: that version is not a policy.
        """
        self._policy.require(principal, Action.MANAGE, POLICY)
        if revision == HEAD:
            return self._give_up_draft(is_dry_run=is_dry_run)
        self._refuse_unapplied_draft()
        name, text = self._version(revision)
        change = self._sound(Change(self._running(), text, "running", name))
        return change if is_dry_run else self._replace(change, f"roll back to {name}")

    def apply_template(self, principal: Principal, name: str, is_dry_run: bool = False) -> Change:
        """Add a built-in set of rules to the running policy.

        Raises:
            NotFound: there is no such template.
            Conflict: the draft says something that was never in force.
        """
        self._policy.require(principal, Action.MANAGE, POLICY)
        self._refuse_unapplied_draft()
        running = self._running()
        text = templates.apply(running, name)
        change = self._sound(Change(running, text, "running", f"with template {name}"))
        return change if is_dry_run else self._replace(change, f"apply template {name}")

    def _running(self) -> str:
        return "" if self._history.running_id() is None else self._history.at(HEAD)

    def _draft(self) -> str:
        """What the draft says; without one, what is running."""
        try:
            draft = self._history.draft()
        except Invalid as error:
            hint = "hyprstream policy edit, or give it up: hyprstream policy rollback HEAD"
            raise Invalid(error.message, param="policy", hint=hint) from None
        return self._running() if draft is None else draft

    def _visible_draft(self) -> str:
        """The same to look at; what is no text has marks in its place."""
        try:
            return self._draft()
        except Invalid:
            return self._history.draft_path.read_text("utf-8", errors="replace")

    def _sound(self, change: Change) -> Change:
        rules.parse(change.new)
        return change

    def _replace(self, change: Change, message: str) -> Change:
        if change.is_empty:
            return change
        before = self._history.draft()
        self._history.write_draft(change.new)
        try:
            return self._commit(change, message)
        except Exception:
            # Else the next attempt would take our own text for somebody's unapplied draft.
            if before is None:
                self._history.draft_path.unlink(missing_ok=True)
            else:
                self._history.write_draft(before)
            raise

    def _commit(self, change: Change, message: str) -> Change:
        if change.is_empty:
            return change
        version = self._history.commit(message)
        self._policy.reload()
        return replace(change, is_done=True, version=version)

    def _give_up_draft(self, *, is_dry_run: bool) -> Change:
        change = Change(self._visible_draft(), self._running(), "draft", "running")
        if is_dry_run or change.is_empty:
            return change
        self._history.write_draft(change.new)
        return replace(change, is_done=True)

    def _refuse_unapplied_draft(self) -> None:
        if self._visible_draft() not in (self._running(), NEW_DRAFT):
            raise Conflict(
                "the draft has changes that were never in force, and they would be lost",
                hint="hyprstream policy apply, or give them up: hyprstream policy rollback HEAD",
            )

    def _version(self, revision: str) -> tuple[str, str]:
        """What a version is called and what it says."""
        steps = _STEPS_BACK.fullmatch(revision)
        if steps is None:
            return revision, self._history.at(revision)
        n_back = int(steps[1] or 1)
        versions = self._history.log(n_back + 1)
        if n_back < len(versions):
            commit = versions[n_back].id
            return commit[:N_ID], self._history.at(commit)
        if versions and n_back == len(versions):
            return "before the first version", ""
        raise NotFound(
            f"no version {revision}: the policy has {len(versions)}",
            kind="version",
            hint="hyprstream policy history",
        )


@dataclass(frozen=True, slots=True)
class PolicyTools:
    """What the commands about the policy, tokens and the audit log call."""

    policy: PolicyService
    tokens: TokenService
    audit: AuditService


def _candidates(
    rules: Sequence[Rule], names: Sequence[str], door: Door, action: Action, resource: Resource
) -> Iterator[Candidate]:
    for rule in rules:
        if any(covers(rule.subject, name) for name in names):
            fits = {
                "door": covers(rule.door, door),
                "resource": covers(rule.resource, str(resource)),
                "action": covers(rule.action, action),
            }
            yield Candidate(rule, tuple(part for part, is_fit in fits.items() if not is_fit))


def _summary(text: str) -> str:
    """The comment that a template begins with."""
    return text.partition("\n")[0].lstrip("# ")
