"""Which rules could decide a request, found without reading the others. Knows patterns; decides nothing.

A request is compared with every pattern that could cover it: the text itself, its parts up to each `:`, and its beginnings
followed by `*`. These are at most a few hundred dictionary lookups, however many rules there are.
"""

from collections.abc import Container, Iterator

from hyprstream.policy.rules import MAX_FIELD, Rule, Rules

_Alike = dict[tuple[str, str], Rule]
"""By door and effect, the first of those that say the same: a second one decides nothing."""
_ByResource = dict[str, _Alike]
_ByAction = dict[str, _ByResource]


class RuleIndex:
    """The rules of one policy by subject, action and resource."""

    def __init__(self, rules: Rules) -> None:
        self._by_subject: dict[str, _ByAction] = {}
        self._roles: dict[str, list[str]] = {}
        for rule in rules.rules:
            actions = self._by_subject.setdefault(rule.subject, {})
            alike = actions.setdefault(rule.action, {}).setdefault(rule.resource, {})
            alike.setdefault((rule.door, rule.effect), rule)
        for role in rules.roles:
            self._roles.setdefault(role.subject, []).append(role.role)

    def names(self, subject: str) -> tuple[str, ...]:
        """A subject and every role it has, those of its roles too."""
        names = {subject: None}
        queue = [subject]
        for name in queue:
            for pattern in _patterns(name, self._roles):
                for role in self._roles[pattern]:
                    if role not in names:
                        names[role] = None
                        queue.append(role)
        return tuple(names)

    def candidates(self, names: tuple[str, ...], action: str, resource: str) -> list[Rule]:
        """The rules on any of these subjects, this action and this resource, by line. Doors are not looked at."""
        found: dict[int, Rule] = {}
        for name in names:
            for subject in _patterns(name, self._by_subject):
                actions = self._by_subject[subject]
                for resources in filter(None, (actions.get(action), actions.get("*"))):
                    for pattern in _patterns(resource, resources):
                        found.update((rule.line, rule) for rule in resources[pattern].values())
        return [found[line] for line in sorted(found)]

    def allows_anything(self, names: tuple[str, ...]) -> bool:
        """Whether a rule allows one of these subjects anything at all."""
        return any(
            rule.effect == "allow"
            for name in names
            for subject in _patterns(name, self._by_subject)
            for resources in self._by_subject[subject].values()
            for alike in resources.values()
            for rule in alike.values()
        )


def _patterns(text: str, known: Container[str]) -> Iterator[str]:
    """The keys of `known` that cover `text`, as `core.principal.covers` has it; one may come twice.

    No pattern is longer than `MAX_FIELD`, so a long text costs no more than one of that length.
    """
    if text in known:
        yield text
    for end in range(min(len(text), MAX_FIELD) + 1):
        beginning = text[:end]
        if text[end : end + 1] == ":" and beginning in known:
            yield beginning
        if (pattern := f"{beginning}*") in known:
            yield pattern
