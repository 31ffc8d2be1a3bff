"""The policy's text: lines of rules and roles, read with the exact place of every mistake. Knows no decision.

    p, subject, door, resource, action, allow|deny
    g, subject, role

Fields are separated by commas and lose the blanks around them; one that holds a comma stands in quotes, as in RFC 4180
(`"peer:Acme, Inc."`). `#` begins a comment line. What could never match is a mistake: a deny that silently covers nothing
would let everybody in.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hyprstream.core.errors import Invalid
from hyprstream.core.principal import Action, Door, covers

MAX_BYTES = 1 << 20
MAX_RULES = 20_000
"""Of rules and roles together."""
MAX_FIELD = 256
KINDS = (
    *("registry", "model", "session", "adapter", "dataset", "response", "inference"),
    *("policy", "token", "audit", "metrics", "service"),
    *("sandbox", "container", "image", "workflow", "tool"),
)
"""What a resource begins with."""

_RULE_FIELDS = ("subject", "door", "resource", "action", "allow or deny")
_ROLE_FIELDS = ("subject", "role")
_BLANKS = " \t"
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or hides instead of showing it, so that a text would not say what it seems to say."""


class PolicySyntaxError(Invalid):
    """A line that is no rule. `line` and `column` count from 1; `text` is the line."""

    def __init__(self, message: str, *, line: int, column: int, text: str) -> None:
        super().__init__(
            f"line {line}, column {column}: {message}",
            param="policy",
            hint="hyprstream policy edit",
        )
        self.line = line
        self.column = column
        self.text = text


@dataclass(frozen=True, slots=True)
class Rule:
    """One `p` line."""

    subject: str
    door: str
    resource: str
    action: str
    effect: str
    """`allow` or `deny`."""
    line: int

    def __str__(self) -> str:
        fields = (self.subject, self.door, self.resource, self.action, self.effect)
        return ", ".join(("p", *map(_written, fields)))


@dataclass(frozen=True, slots=True)
class Role:
    """One `g` line: whoever `subject` covers has `role`."""

    subject: str
    role: str
    line: int

    def __str__(self) -> str:
        return f"g, {_written(self.subject)}, {_written(self.role)}"


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole policy, in the order of its lines."""

    rules: tuple[Rule, ...] = ()
    roles: tuple[Role, ...] = ()

    def roles_of(self, subject: str) -> tuple[str, ...]:
        """Every role of a subject, those of its roles too."""
        names = [subject]
        for name in names:
            names += [
                role.role
                for role in self.roles
                if role.role not in names and covers(role.subject, name)
            ]
        return tuple(dict.fromkeys(names[1:]))


@dataclass(frozen=True, slots=True)
class _Field:
    text: str
    column: int


def parse(text: str) -> Rules:
    """Read a policy.

    Raises:
        PolicySyntaxError: a line is no rule; names the line, the column and what was expected there.
        Invalid: it is longer than `MAX_BYTES` or has more than `MAX_RULES` rules and roles.
    """
    if (n_bytes := len(text.encode(errors="surrogatepass"))) > MAX_BYTES:
        raise Invalid(f"the policy has {n_bytes} bytes, {MAX_BYTES} are allowed", param="policy")
    rules: list[Rule] = []
    roles: list[Role] = []
    for number, line in enumerate(text.split("\n"), 1):
        found = _Line(number, line.removesuffix("\r")).read()
        if isinstance(found, Rule):
            rules.append(found)
        elif found is not None:
            roles.append(found)
        if len(rules) + len(roles) > MAX_RULES:
            raise Invalid(f"the policy has more than {MAX_RULES} rules", param="policy")
    return Rules(tuple(rules), tuple(roles))


class _Line:
    """One line, as it was written."""

    def __init__(self, number: int, text: str) -> None:
        self._number = number
        self._text = text

    def read(self) -> Rule | Role | None:
        """What it says; None for a comment or nothing."""
        if hidden := _HIDDEN.search(self._text):
            raise self._unseen(hidden.start())
        if not (said := self._text.strip(_BLANKS)) or said.startswith("#"):
            return None
        kind, *fields = self._fields()
        if kind.text == "p":
            return self._rule(self._named(fields, _RULE_FIELDS))
        if kind.text == "g":
            subject, role = self._named(fields, _ROLE_FIELDS)
            self._pattern(subject)
            if "*" in role.text:
                raise self._error(role, "a role is a name without '*'")
            return Role(subject.text, role.text, self._number)
        raise self._error(kind, f"expected p (a rule) or g (a role), not {kind.text[:40]!r}")

    def _fields(self) -> list[_Field]:
        fields: list[_Field] = []
        position = 0
        while position <= len(self._text):
            field, position = self._field(position)
            if len(field.text) > MAX_FIELD:
                raise self._error(
                    field, f"a field of {len(field.text)} characters, {MAX_FIELD} are allowed"
                )
            for i, character in enumerate(field.text):
                if not character.isprintable():
                    raise self._unseen(field.column - 1 + i)
            fields.append(field)
        return fields

    def _field(self, position: int) -> tuple[_Field, int]:
        """The field that begins there, and where the next one does: after the comma, or after the end of the line."""
        comma = self._text.find(",", position)
        end = len(self._text) if comma < 0 else comma
        start = position
        while self._text[start : start + 1] in (" ", "\t"):
            start += 1
        if self._text[start : start + 1] == '"':
            return self._quoted(start)
        if '"' in (part := self._text[position:end].strip(_BLANKS)):
            at = _Field("", self._text.index('"', position) + 1)
            raise self._error(at, 'quotes stand around a whole field: "peer:Acme, Inc."')
        return _Field(part, start + 1), end + 1

    def _quoted(self, start: int) -> tuple[_Field, int]:
        if (quoted := _QUOTED.match(self._text, start)) is None:
            raise self._error(_Field("", start + 1), "this quote is never closed")
        rest = self._text[quoted.end() :].lstrip(_BLANKS)
        end = len(self._text) - len(rest)
        if rest and not rest.startswith(","):
            raise self._error(_Field("", end + 1), "expected a comma after the closing quote")
        return _Field(quoted[1].replace('""', '"'), start + 2), end + 1

    def _named(self, fields: Sequence[_Field], names: Sequence[str]) -> Sequence[_Field]:
        for field, name in zip(fields, names, strict=False):
            if not field.text:
                raise self._error(field, f"expected {name}, and there is nothing")
        if len(fields) < len(names):
            end = _Field("", len(self._text.rstrip()) + 1)
            missing = ", ".join(names[len(fields) :])
            raise self._error(end, f"the line ends where {missing} should follow")
        if len(fields) > len(names):
            raise self._error(fields[len(names)], f"expected the end of the line after {names[-1]}")
        return fields

    def _rule(self, fields: Sequence[_Field]) -> Rule:
        subject, door, resource, action, effect = fields
        self._pattern(subject)
        self._one_of(door, ("*", *Door), "a door")
        self._resource(resource)
        self._one_of(action, ("*", *Action), "an action")
        self._one_of(effect, ("allow", "deny"), "an effect")
        return Rule(subject.text, door.text, resource.text, action.text, effect.text, self._number)

    def _resource(self, field: _Field) -> None:
        self._pattern(field)
        head = field.text.partition(":")[0]
        if any(covers(head, kind) for kind in KINDS):
            return
        near = _near(head.rstrip("*"), KINDS)
        raise self._error(field, f"expected a resource such as {near}, not {field.text[:40]!r}")

    def _pattern(self, field: _Field) -> None:
        """Refuse what covers nothing."""
        star = field.text.find("*")
        if 0 <= star < len(field.text) - 1:
            at = _Field("", field.column + star)
            raise self._error(at, "expected '*' at the end of a name only")
        if field.text.endswith(":"):
            at = _Field("", field.column + len(field.text))
            raise self._error(at, "expected a name or '*' after ':'")

    def _one_of(self, field: _Field, words: Sequence[str], what: str) -> None:
        if field.text not in words:
            raise self._error(
                field, f"expected {what}: {_near(field.text, words)}; not {field.text[:40]!r}"
            )

    def _error(self, field: _Field, message: str) -> PolicySyntaxError:
        return PolicySyntaxError(message, line=self._number, column=field.column, text=self._text)

    def _unseen(self, position: int) -> PolicySyntaxError:
        code = f"U+{ord(self._text[position]):04X}"
        return self._error(_Field("", position + 1), f"a character that cannot be seen: {code}")


def _written(text: str) -> str:
    """A field as a policy holds it."""
    is_plain = not set(text) & {",", '"'} and text == text.strip(_BLANKS)
    return text if is_plain else '"' + text.replace('"', '""') + '"'


def _near(text: str, words: Sequence[str]) -> str:
    """The word that was probably meant, or all there are."""
    near = difflib.get_close_matches(text, words, n=1)
    return near[0] if near else ", ".join(words)
