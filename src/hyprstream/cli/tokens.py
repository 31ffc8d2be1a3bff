"""`hyprstream policy token`: keys for people and programs. Knows what is printed and where; knows no cryptography.

A token is printed once, alone, on standard output. It is never read from the command line.
"""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, layout
from hyprstream.cli.tools import open_tools
from hyprstream.core.errors import Invalid
from hyprstream.core.principal import Scope, os_principal

if TYPE_CHECKING:
    from hyprstream.policy.tokens import TokenRecord
    from hyprstream.services.tokens import Issued

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Issue, list and withdraw tokens."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Token = Annotated[str, typer.Argument(metavar="TOKEN", help="Its id or its name.")]
OfUser = Annotated[
    str, typer.Option("--user", metavar="USER", help="Look among this user's tokens only.")
]


@app.command()
def create(
    user: Annotated[
        str | None,
        typer.Argument(metavar="USER", help="Who will hold it; the policy calls it token:USER."),
    ] = None,
    user_option: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="The same, as an option.")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", "-n", help="What to call the token in lists.")
    ] = "default",
    expires: Annotated[
        str, typer.Option("--expires", "-e", metavar="TIME", help="12h, 30d, 4w, 1y or never.")
    ] = "90d",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            metavar="SCOPE",
            help='Limit it to resources ("model:*"), or to an action on them ("infer:model:*"); may be repeated.',
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a token and print it, this once.

    Example: hyprstream policy token create alice --expires 30d

    Example: hyprstream policy token create --user alice --name dev-token --expires 30d --scope "model:*"

    Scopes only limit. What token:USER may do at all, the policy says.
    """
    from hyprstream.policy.tokens import parse_expiry

    holder = _one_user(user, user_option)
    lifetime, scopes = parse_expiry(expires), [Scope.parse(text) for text in scope or ()]
    with open_tools() as tools:
        issued = tools.tokens.create(
            os_principal(), holder, name=name, expires=lifetime, scopes=scopes
        )
    _print_issued(issued, as_json=as_json)


@app.command("list")
def list_(
    user: Annotated[str, typer.Argument(metavar="USER", help="Only this user's.")] = "*",
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Revoked and expired ones too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the tokens, never the secrets.

    Example: hyprstream policy token list alice
    """
    with open_tools() as tools:
        records = tools.tokens.list(os_principal(), _bare(user), include_revoked=everything)
    now = time.time()
    records = [record for record in records if everything or _state(record, now) == "active"]
    if as_json:
        console.show(json.dumps([_described(record) for record in records]))
    elif not records:
        console.say("no tokens; issue one with: hyprstream policy token create alice")
    else:
        header = ("ID", "USER", "NAME", "STATE", "EXPIRES", "LAST USED", "SCOPES")
        for line in layout.table([header, *(_row(record, now) for record in records)]):
            console.show(line)


@app.command()
def revoke(token: Token, user: OfUser = "*") -> None:
    """Withdraw a token. Whoever presents it is refused from now on.

    Example: hyprstream policy token revoke dev-token
    """
    with open_tools() as tools:
        record = tools.tokens.revoke(os_principal(), token, user=_bare(user))
    console.say(f"revoked {_named(record)}")


@app.command()
def rotate(token: Token, user: OfUser = "*", as_json: AsJson = False) -> None:
    """Replace a token by a new one of the same user, name and scopes, and print that, this once.

    Example: hyprstream policy token rotate dev-token
    """
    with open_tools() as tools:
        issued = tools.tokens.rotate(os_principal(), token, user=_bare(user))
    _print_issued(issued, as_json=as_json)


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Sign new tokens with a new key. Those already issued stay valid.

    Example: hyprstream policy token rotate-keys
    """
    with open_tools() as tools:
        kid = tools.tokens.rotate_keys(os_principal())
    console.say(f"new tokens are signed with key {kid}; those already issued stay valid")


@app.command("retire-key")
def retire_key(
    kid: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, `kid` in list --json.")],
) -> None:
    """Forget a key that may be in wrong hands, and withdraw every token it signed. Rotate the keys first.

    Example: hyprstream policy token retire-key 0660c70261628f17f9
    """
    with open_tools() as tools:
        n_revoked = tools.tokens.retire_key(os_principal(), kid)
    console.say(f"key {kid} is forgotten; {layout.counted(n_revoked, 'token')} withdrawn")


def _one_user(argument: str | None, option: str | None) -> str:
    users = {_bare(user) for user in (argument, option) if user is not None}
    if len(users) != 1:
        problem = "no user" if not users else f"two users: {' and '.join(sorted(users))}"
        raise Invalid(problem, param="user", hint="hyprstream policy token create alice")
    return users.pop()


def _bare(user: str) -> str:
    return user.removeprefix("token:")


def _print_issued(issued: "Issued", *, as_json: bool) -> None:
    if as_json:
        console.show(json.dumps({"token": issued.token, **_described(issued.record)}))
    else:
        console.show(issued.token)
    record = issued.record
    console.say(f"{_named(record)}; expires {_moment(record.expires, 'never')}")
    console.say("it is not shown again; send it as Authorization: Bearer TOKEN, or as x-api-key")
    if not issued.is_useful:
        console.say(
            f"the policy allows token:{record.user} nothing yet; add a rule with: hyprstream policy edit"
        )


def _named(record: "TokenRecord") -> str:
    return f"token {record.name} of {record.user} (id {record.id})"


def _described(record: "TokenRecord") -> dict[str, object]:
    return {**layout.as_object(record), "scopes": [str(scope) for scope in record.scopes or ()]}


def _row(record: "TokenRecord", now: float) -> tuple[str, ...]:
    return (
        record.id,
        record.user,
        record.name,
        _state(record, now),
        _moment(record.expires, "never"),
        _moment(record.last_used, "never"),
        " ".join(map(str, record.scopes or ())) or "no limit",
    )


def _state(record: "TokenRecord", now: float) -> str:
    if record.revoked is not None:
        return "revoked"
    return "expired" if record.expires is not None and record.expires <= now else "active"


def _moment(seconds: float | None, otherwise: str) -> str:
    return otherwise if seconds is None else layout.moment(int(seconds))
