"""The policy's text, and the place of every mistake in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.errors import Invalid
from hyprstream.core.principal import Action, Door
from hyprstream.policy.rules import (
    KINDS,
    MAX_BYTES,
    MAX_RULES,
    PolicySyntaxError,
    Role,
    Rule,
    parse,
)


def test_rules_and_roles_are_read_with_their_lines() -> None:
    text = "# who\n\np, token:alice, *, model:qwen3, infer, allow\r\n  g , token:bob ,admin\n"
    assert parse(text).rules == (Rule("token:alice", "*", "model:qwen3", "infer", "allow", 3),)
    assert parse(text).roles == (Role("token:bob", "admin", 4),)


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ("q, a, *, model:x, infer, allow", 1, "expected p (a rule) or g (a role)"),
        ("p, a, *, model:x, inferr, allow", 19, "expected an action: infer; not 'inferr'"),
        ("p, a, 9, model:x, infer, allow", 7, "expected a door: *, cli, http, ws; not '9'"),
        ("p, a, htp, model:x, infer, allow", 7, "expected a door: http"),
        ("p, a, *, modle:x, infer, allow", 10, "such as model, not 'modle:x'"),
        ("p, a, *, model:x, infer, yes", 26, "expected an effect: allow, deny"),
        ("p, , *, model:x, infer, allow", 4, "expected subject, and there is nothing"),
        ("p, a, *, model:x", 17, "the line ends where action, allow or deny should follow"),
        ("p, a, *, model:x, infer, allow, b", 33, "expected the end of the line"),
        ("g, a", 5, "the line ends where role should follow"),
        ("g, a, b*", 7, "a role is a name without '*'"),
        ("g, a, b*c", 7, "a role is a name without '*'"),
        ("g, a*b, c", 5, "expected '*' at the end of a name only"),
        ("p, a\x07, *, model:x, infer, allow", 5, "a character that cannot be seen: U+0007"),
        ("p, a\x1c, *, model:x, infer, allow", 5, "a character that cannot be seen: U+001C"),
        ("p, a\u200bb, *, model:x, infer, allow", 5, "a character that cannot be seen: U+200B"),
        ("# \x1b[2J all is well", 3, "a character that cannot be seen: U+001B"),
        ("# safe \u202e", 8, "a character that cannot be seen: U+202E"),
        ("p, a, *, modle*, infer, allow", 10, "such as model, not 'modle*'"),
        ("p, a, *, model:*:main, infer, deny", 16, "expected '*' at the end of a name only"),
        ("p, to*en:a, *, model:x, infer, deny", 6, "expected '*' at the end of a name only"),
        ("p, a, *, model:, infer, deny", 16, "expected a name or '*' after ':'"),
        ("p, token:, *, model:x, infer, deny", 10, "expected a name or '*' after ':'"),
        (
            "p, a, *, model:x, infer, allow # why",
            26,
            "expected an effect: allow; not 'allow # why'",
        ),
        ("p, a, *, model:x, infer, Allow", 26, "expected an effect: allow"),
        ("p, a, cli|http, model:x, infer, allow", 7, "expected a door: http; not 'cli|http'"),
        ('p, "a, *, model:x, infer, allow', 4, "this quote is never closed"),
        ('p, "a" b, *, model:x, infer, allow', 8, "expected a comma after the closing quote"),
        ('p, a"b, *, model:x, infer, allow', 5, "quotes stand around a whole field"),
        ('p, "", *, model:x, infer, allow', 5, "expected subject, and there is nothing"),
        (f"p, {'a' * 300}, *, model:x, infer, allow", 4, "300 characters, 256 are allowed"),
    ],
)
def test_a_mistake_is_named_with_line_column_and_what_was_expected(
    line: str, column: int, expected: str
) -> None:
    with pytest.raises(PolicySyntaxError) as refusal:
        parse(f"# a comment\n{line}\n")
    error = refusal.value
    assert (error.line, error.column, error.text) == (2, column, line)
    assert expected in error.message


def test_a_policy_has_bounds() -> None:
    with pytest.raises(Invalid, match="1048577 bytes"):
        parse("#" * (MAX_BYTES + 1))
    with pytest.raises(Invalid, match="1048577 bytes"):
        parse("#" + "\N{SNOWMAN}" * (MAX_BYTES // 3) + "#")
    rule = "p, a, *, *, *, allow\n"
    assert len(parse("# and why\n" * 10 + rule * MAX_RULES).rules) == MAX_RULES
    with pytest.raises(Invalid, match="more than 20000 rules"):
        parse(rule * MAX_RULES + "g, a, b\n")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_resource_may_be_ruled_whole_by_name_and_by_beginning(kind: str) -> None:
    for resource in (kind, f"{kind}:a", f"{kind}:*", f"{kind[:3]}*"):
        assert parse(f"p, a, *, {resource}, *, allow").rules[0].resource == resource


def test_a_name_with_a_comma_stands_in_quotes() -> None:
    text = 'p, "peer:Acme, ""The"" Inc." , *, model:x, infer, deny\ng,\t"peer: a",role\n'
    assert parse(text).rules[0].subject == 'peer:Acme, "The" Inc.'
    assert parse(text).roles[0].subject == "peer: a"


def test_quotes_around_a_plain_name_change_nothing() -> None:
    assert parse('p, "local:*", "*", "model:x", "infer", "deny"').rules == (
        Rule("local:*", "*", "model:x", "infer", "deny", 1),
    )


def test_a_comment_may_be_written_in_any_language() -> None:
    assert (
        parse(
            "# N\N{LATIN SMALL LETTER A WITH DIAERESIS}h \U0001f469\u200d\U0001f4bb\u3000\n"
        ).rules
        == ()
    )


names = st.text(
    st.characters(exclude_characters="*", exclude_categories=("C", "Z")), min_size=1, max_size=40
).filter(lambda name: not name.endswith(":"))


@given(
    names | st.just(" Acme, Inc. "),
    st.sampled_from(("*", *Door)),
    st.sampled_from(KINDS),
    names,
    st.sampled_from(("*", *Action)),
    st.sampled_from(("allow", "deny")),
)
def test_a_rule_that_is_written_is_read_again(
    subject: str, door: str, kind: str, name: str, action: str, effect: str
) -> None:
    rule = Rule(subject, door, f"{kind}:{name}", action, effect, 1)
    assert parse(str(rule)).rules == (rule,)
    role = Role(subject, name, 1)
    assert parse(str(role)).roles == (role,)


def test_roles_of_roles_are_roles_and_a_circle_ends() -> None:
    rules = parse("g, token:*, user\ng, user, reader\ng, reader, user\ng, token:bob, admin\n")
    assert set(rules.roles_of("token:bob")) == {"user", "reader", "admin"}
    assert set(rules.roles_of("local:bob")) == set()


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        parse(text)
    except PolicySyntaxError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(error.text) + 1
