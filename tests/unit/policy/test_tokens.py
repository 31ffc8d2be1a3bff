"""Tokens: issued, presented, forged, withdrawn; by one process and by two."""

import base64
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Engine, event

from hyprstream.core.errors import (
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hyprstream.core.principal import Principal, Scope
from hyprstream.policy.database import open_database
from hyprstream.policy.keys import KeyRing
from hyprstream.policy.tokens import TokenStore, parse_expiry

NOW = 1_800_000_000
HOUR = timedelta(hours=1)
SOON = 20.0
MODELS = Scope.parse("model:*")
QUERIES = Scope.parse("query:registry")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "data" / "keys")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'hyprstream.db'}"


@pytest.fixture
def store(url: str, keys: KeyRing, clock: Clock) -> Iterator[TokenStore]:
    with closing(TokenStore(url, keys, clock=clock, poll_seconds=0.005)) as store:
        yield store


def issue(
    store: TokenStore,
    user: str = "alice",
    name: str = "dev",
    expires: timedelta | None = HOUR,
    *scopes: Scope,
) -> str:
    return store.create(user, name=name, expires=expires, scopes=scopes).token


def refusal(store: TokenStore, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        store.identify(token)
    assert token not in str(caught.value)
    return caught.value.message


def eventually(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def decoded(token: str) -> tuple[dict[str, object], dict[str, object]]:
    head, payload, _ = token.removeprefix("hypr_").split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, payload))  # type: ignore[return-value]


# What a token is.


def test_a_token_says_who_when_and_how_far_in_standard_claims(
    store: TokenStore, keys: KeyRing
) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[MODELS, QUERIES])
    assert issued.token.startswith("hypr_")
    head, payload = decoded(issued.token)
    assert head == {"alg": "EdDSA", "typ": "JWT", "kid": keys.current().kid}
    assert payload == {
        "iss": "hyprstream",
        "aud": "hyprstream",
        "sub": "alice",
        "jti": issued.record.id,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 3600,
        "scopes": ["model:*", "query:registry"],
    }


def test_a_token_for_ever_without_limits_says_neither_end_nor_scopes(store: TokenStore) -> None:
    _, payload = decoded(issue(store, expires=None))
    assert not {"exp", "scopes"} & payload.keys()


def test_whoever_presents_a_token_is_its_user_within_its_scopes(store: TokenStore) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[MODELS])
    principal = store.identify(issued.token)
    assert principal == Principal("token:alice", scopes=(MODELS,))
    assert principal.credential == issued.record.id
    assert store.identify(issue(store)).scopes is None


def test_a_user_may_hold_many_tokens(store: TokenStore) -> None:
    tokens = [issue(store, name=name) for name in ("dev", "ci", "dev")]
    assert {store.identify(token).subject for token in tokens} == {"token:alice"}
    assert len({store.identify(token).credential for token in tokens}) == 3


def test_printing_what_was_issued_does_not_print_the_token(store: TokenStore) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[])
    assert issued.token not in repr(issued)


def test_the_token_itself_is_nowhere_on_disk(store: TokenStore, tmp_path: Path) -> None:
    token = issue(store)
    store.identify(token)
    signature = token.rpartition(".")[2].encode()
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files
    assert not any(signature in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "user", ["", "*", "local:alice", "a b", "a/b", "a\n", "ä", "a" * 65, "a,b", "#a"]
)
def test_what_cannot_be_a_user_in_a_policy_gets_no_token(store: TokenStore, user: str) -> None:
    with pytest.raises(Invalid) as caught:
        issue(store, user)
    assert caught.value.param == "user"


@pytest.mark.parametrize("name", ["", "a b", "-n", "a" * 65, "\x1b[31m", "a\n"])
def test_what_cannot_be_typed_as_a_name_is_none(store: TokenStore, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        issue(store, name=name)
    assert caught.value.param == "name"


@pytest.mark.parametrize("expires", [timedelta(), -HOUR, timedelta(milliseconds=1)])
def test_no_token_is_issued_that_has_expired_already(store: TokenStore, expires: timedelta) -> None:
    with pytest.raises(Invalid, match="expired"):
        issue(store, expires=expires)


def test_no_token_is_issued_that_would_be_too_long_to_be_accepted(store: TokenStore) -> None:
    scopes = [Scope.parse(f"infer:model:{'m' * 100}{i}") for i in range(40)]
    with pytest.raises(Invalid, match="40 scopes") as caught:
        store.create("alice", name="dev", expires=None, scopes=scopes)
    assert caught.value.param == "scopes"
    assert store.list() == []
    store.identify(store.create("alice", name="dev", expires=None, scopes=scopes[:15]).token)


# What is refused.


def forge(
    keys: KeyRing,
    *,
    key: object = None,
    algorithm: str = "EdDSA",
    header: dict[str, object] | None = None,
    **claims: object,
) -> str:
    """A token with some things changed; a claim that is `...` is left out."""
    current = keys.current()
    payload = {
        "iss": "hyprstream",
        "aud": "hyprstream",
        "sub": "alice",
        "jti": "0123456789abcdef",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
    } | claims
    payload = {name: value for name, value in payload.items() if value is not ...}
    return "hypr_" + jwt.encode(
        payload,
        current.private if key is None else key,  # type: ignore[arg-type]
        algorithm,
        {"kid": current.kid} | (header or {}),
    )


def public_pem(keys: KeyRing) -> bytes:
    public = keys.current().private.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed_with_the_public_key(keys: KeyRing) -> str:
    """HS256 over the PEM everybody may know; written by hand, as the library refuses to."""
    import hashlib
    import hmac

    def encoded(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    _, payload, _ = forge(keys).removeprefix("hypr_").encode().split(b".")
    head = {"alg": "HS256", "typ": "JWT", "kid": keys.current().kid}
    signed = encoded(json.dumps(head).encode()) + b"." + payload
    code = hmac.new(public_pem(keys), signed, hashlib.sha256).digest()
    return f"hypr_{(signed + b'.' + encoded(code)).decode()}"


FORGERIES: dict[str, tuple[Callable[[KeyRing], str], str]] = {
    "alg none": (lambda keys: forge(keys, key="", algorithm="none"), "not signed with EdDSA"),
    "HS256 with the public key": (signed_with_the_public_key, "not signed with EdDSA"),
    "another key": (lambda keys: forge(keys, key=Ed25519PrivateKey.generate()), "signature"),
    "an unknown kid": (lambda keys: forge(keys, header={"kid": "0" * 18}), "key that is not"),
    "a kid that is a path": (lambda keys: forge(keys, header={"kid": "../x"}), "key that is not"),
    "no kid": (lambda keys: "hypr_" + jwt.encode({}, keys.current().private, "EdDSA"), "key that"),
    "another issuer": (lambda keys: forge(keys, iss="evil"), "by another server"),
    "another audience": (lambda keys: forge(keys, aud="evil"), "for another server"),
    "no audience": (lambda keys: forge(keys, aud=...), "lacks the claim aud"),
    "no id": (lambda keys: forge(keys, jti=...), "lacks the claim jti"),
    "a future iat": (lambda keys: forge(keys, iat=NOW + 61), "not valid yet"),
    "a future nbf": (lambda keys: forge(keys, nbf=NOW + 61), "not valid yet"),
    "expired": (lambda keys: forge(keys, exp=NOW), "expired"),
    "an end that is no number": (lambda keys: forge(keys, exp="never"), "nonsense"),
    "scopes that are no list": (lambda keys: forge(keys, scopes="model:*"), "nonsense"),
    "a scope that is none": (lambda keys: forge(keys, scopes=["a b"]), "nonsense"),
    "never issued": (lambda keys: forge(keys), "on record"),
    "too long": (lambda keys: forge(keys, jti="x" * 4096), "not one of ours"),
    "not ASCII": (lambda keys: forge(keys) + "é", "not one of ours"),
    "nothing": (lambda keys: "hypr_", "damaged"),
    "one part": (lambda keys: "hypr_abc", "damaged"),
    "rubbish": (lambda keys: "hypr_a.b.c", "damaged"),
    "a header of brackets": (
        lambda keys: "hypr_" + base64.urlsafe_b64encode(b"[" * 2100).decode() + ".e30.AA",
        "damaged",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token_is_refused_and_the_answer_says_why(
    store: TokenStore, keys: KeyRing, forgery: str
) -> None:
    make, why = FORGERIES[forgery]
    assert why in refusal(store, make(keys))


def test_the_forgeries_differ_from_a_good_token_in_nothing_else(
    store: TokenStore, keys: KeyRing
) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[])
    assert store.identify(forge(keys, jti=issued.record.id)).subject == "token:alice"


def test_a_clock_may_be_a_minute_ahead(store: TokenStore, clock: Clock) -> None:
    token = issue(store)
    clock.now -= 60
    store.identify(token)
    clock.now -= 1
    other = issue(store)
    clock.now -= 61
    assert "not valid yet" in refusal(store, other)


def test_a_token_in_which_one_character_is_another_is_refused(store: TokenStore) -> None:
    token = issue(store, "alice", "dev", HOUR, MODELS)
    store.identify(token)
    for i in range(len("hypr_"), len(token), 3):
        changed = token[:i] + ("A" if token[i] != "A" else "B") + token[i + 1 :]
        refusal(store, changed)
    assert token[-1] in "AQgw", "the last character of a signature carries two bits"
    others = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0123456789-_" if c != token[-1]]
    for last in others:
        refusal(store, token[:-1] + last)


@pytest.mark.parametrize("suffix", ["=", "==", ".", " ", "\n", "."])
def test_a_token_has_one_spelling(store: TokenStore, suffix: str) -> None:
    refusal(store, issue(store) + suffix)


def test_a_token_of_another_installation_is_refused(store: TokenStore, tmp_path: Path) -> None:
    other = TokenStore(f"sqlite:///{tmp_path / 'other.db'}", KeyRing(tmp_path / "other"))
    with closing(other):
        token = issue(other)
    assert "key that is not" in refusal(store, token)


def test_a_token_expires_to_the_second_though_it_was_just_recognised(
    store: TokenStore, clock: Clock
) -> None:
    token = issue(store, expires=timedelta(seconds=30))
    clock.now += 29.9
    store.identify(token)
    clock.now += 0.1
    assert "expired" in refusal(store, token)


def test_a_token_without_an_end_lasts(store: TokenStore, clock: Clock) -> None:
    token = issue(store, expires=None)
    clock.now += 99 * 365 * 86400
    store.identify(token)


# Withdrawing and replacing.


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_revoked_token_is_refused_at_once(store: TokenStore, clock: Clock, by: str) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[])
    store.identify(issued.token)
    clock.now += 5
    record = store.revoke(issued.record.id if by == "id" else "dev")
    assert (record.id, record.revoked) == (issued.record.id, NOW + 5)
    assert "revoked" in refusal(store, issued.token)


def test_revoking_again_changes_nothing(store: TokenStore, clock: Clock) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[])
    first = store.revoke("dev")
    clock.now += 5
    assert store.revoke(issued.record.id) == first
    with pytest.raises(NotFound):
        store.revoke("dev")


def test_a_name_that_several_bear_names_none_and_the_answer_tells_them_apart(
    store: TokenStore,
) -> None:
    ids = [
        store.create(user, name="dev", expires=HOUR, scopes=[]).record.id
        for user in ("alice", "bob")
    ]
    for call in (store.revoke, store.rotate):
        with pytest.raises(Conflict) as caught:
            call("dev")
        assert caught.value.hint == f"name one by id: {ids[0]} of alice, {ids[1]} of bob"
    assert len(store.list()) == 2


def test_of_two_with_one_name_the_one_that_is_still_valid_is_meant(
    store: TokenStore, clock: Clock
) -> None:
    issue(store, expires=HOUR)
    clock.now += 7200
    valid = store.create("alice", name="dev", expires=HOUR, scopes=[])
    assert store.revoke("dev").id == valid.record.id


def test_a_rotated_token_keeps_all_but_its_secret_and_its_end(
    store: TokenStore, clock: Clock
) -> None:
    old = store.create("alice", name="dev", expires=HOUR, scopes=[MODELS])
    clock.now += 1800
    new = store.rotate("dev")
    assert (new.record.user, new.record.name) == ("alice", "dev")
    assert new.record.scopes == (MODELS,)
    assert new.record.expires == NOW + 1800 + 3600
    assert "revoked" in refusal(store, old.token)
    assert store.identify(new.token) == Principal("token:alice", scopes=(MODELS,))
    assert [record.id for record in store.list()] == [new.record.id]


def test_what_is_revoked_is_not_rotated(store: TokenStore) -> None:
    issued = store.create("alice", name="dev", expires=HOUR, scopes=[])
    store.revoke("dev")
    with pytest.raises(Conflict, match="revoked"):
        store.rotate(issued.record.id)
    assert len(store.list(include_revoked=True)) == 1


def test_tokens_are_listed_by_user_and_the_revoked_on_request(store: TokenStore) -> None:
    for user, name in (("bob", "b"), ("alice", "b"), ("alice", "a")):
        issue(store, user, name)
    assert [(r.user, r.name) for r in store.list()] == [
        ("alice", "a"),
        ("alice", "b"),
        ("bob", "b"),
    ]
    store.revoke("a")
    assert [(r.user, r.name) for r in store.list("alice")] == [("alice", "b")]
    assert [r.name for r in store.list("alice", include_revoked=True)] == ["a", "b"]
    assert store.list("nobody") == []


# Keys.


def test_tokens_of_the_old_key_stay_valid_after_a_rotation(store: TokenStore) -> None:
    old = issue(store)
    kid = store.rotate_keys()
    new = store.create("alice", name="ci", expires=HOUR, scopes=[])
    assert new.record.kid == kid != decoded(old)[0]["kid"]
    assert store.identify(old).subject == store.identify(new.token).subject == "token:alice"


def test_a_key_is_given_up_once_none_of_its_tokens_is_valid(
    store: TokenStore, keys: KeyRing, clock: Clock
) -> None:
    issue(store, expires=HOUR)
    lasting = store.create("alice", name="ci", expires=None, scopes=[])
    first = keys.current().kid
    second = store.rotate_keys()
    third = store.rotate_keys()
    assert keys.kids() == [first, second, third], "the one before may just be signing"
    clock.now += 7200
    store.revoke(lasting.record.id)
    fourth = store.rotate_keys()
    assert keys.kids() == [third, fourth]


def test_what_a_key_in_wrong_hands_signed_is_revoked_with_it(
    store: TokenStore, keys: KeyRing
) -> None:
    stolen = keys.current()
    token = issue(store)
    store.identify(token)
    with pytest.raises(Conflict):
        store.retire_key(stolen.kid)
    store.rotate_keys()
    after = issue(store, name="after")
    assert store.retire_key(stolen.kid) == 1
    assert "key that is not" in refusal(store, token)
    store.identify(after)


# Two processes.


def test_another_process_is_obeyed_without_being_asked(
    store: TokenStore, url: str, keys: KeyRing, clock: Clock
) -> None:
    token = issue(store)
    store.identify(token)
    with closing(TokenStore(url, keys, clock=clock)) as other:
        other.revoke("dev")

    def is_refused() -> bool:
        try:
            store.identify(token)
        except Unauthenticated:
            return True
        return False

    eventually(is_refused)


def test_a_token_another_process_has_just_issued_is_known(
    store: TokenStore, url: str, keys: KeyRing, clock: Clock
) -> None:
    store.identify(issue(store))
    with closing(TokenStore(url, keys, clock=clock)) as other:
        other.rotate_keys()
        token = issue(other, "bob")
    assert store.identify(token).subject == "token:bob"


ISSUE = """
import sys
from pathlib import Path
from hyprstream.policy.keys import KeyRing
from hyprstream.policy.tokens import TokenStore
store = TokenStore(sys.argv[1], KeyRing(Path(sys.argv[2])))
for i in range(5):
    print(store.create(sys.argv[3], name=f"t{i}", expires=None, scopes=[]).token)
store.close()
"""


def test_processes_that_start_on_an_empty_directory_at_once_agree(tmp_path: Path, url: str) -> None:
    directory = tmp_path / "data" / "keys"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ISSUE, url, str(directory), user],
            stdout=subprocess.PIPE,
            text=True,
        )
        for user in ("alice", "bob", "carol")
    ]
    tokens = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    with closing(TokenStore(url, KeyRing(directory))) as store:
        subjects = [[store.identify(token).subject for token in some] for some in tokens]
        assert subjects == [[f"token:{user}"] * 5 for user in ("alice", "bob", "carol")]
        assert len(store.list()) == 15


def test_any_thread_may_ask_while_another_revokes(store: TokenStore) -> None:
    tokens = {name: issue(store, name=name) for name in (f"t{i}" for i in range(20))}
    revoked: list[str] = []
    wrong: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            for name, token in tokens.items():
                was_revoked = name in revoked
                try:
                    store.identify(token)
                except Unauthenticated:
                    continue
                if was_revoked:
                    wrong.append(name)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for name in list(tokens)[:10]:
        store.revoke(name)
        revoked.append(name)
    is_over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# The cache.


class Statements:
    """What an engine is told."""

    def __init__(self, engine: Engine) -> None:
        self.of_threads: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *_: object) -> None:
        self.of_threads.append(threading.current_thread().name)

    def here(self) -> int:
        return self.of_threads.count(threading.current_thread().name)


def settled(store: TokenStore, token: str) -> None:
    """Until the store remembers a token."""
    statements = Statements(store._engine)

    def is_remembered() -> bool:
        before = statements.here()
        store.identify(token)
        return statements.here() == before

    eventually(is_remembered)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, the thread that watches does not fall behind."""
    monkeypatch.setattr("hyprstream.policy.tokens.STALE_SECONDS", 600.0)


@pytest.mark.usefixtures("patient")
def test_a_remembered_token_costs_no_look_at_the_database(store: TokenStore) -> None:
    token = issue(store)
    settled(store, token)
    statements = Statements(store._engine)
    eventually(lambda: "tokens" in statements.of_threads)
    assert statements.here() == 0, "the thread that watches asks, and nobody else"
    for _ in range(100):
        store.identify(token)
    assert statements.here() == 0


@pytest.mark.usefixtures("patient")
def test_a_token_is_looked_up_again_after_a_minute(store: TokenStore, clock: Clock) -> None:
    token = issue(store)
    settled(store, token)
    clock.now += 60
    statements = Statements(store._engine)
    store.identify(token)
    assert statements.here() > 0


def test_what_cannot_be_watched_is_looked_up(
    url: str, keys: KeyRing, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyprstream.policy.tokens.STALE_SECONDS", -1.0)
    with closing(TokenStore(url, keys, clock=clock, poll_seconds=0.005)) as store:
        token = issue(store)
        store.identify(token)
        with closing(TokenStore(url, keys, clock=clock)) as other:
            other.revoke("dev")
        assert "revoked" in refusal(store, token), "not even once after the revocation"


def test_no_more_than_so_many_are_remembered(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyprstream.policy.tokens.MAX_REMEMBERED", 3)
    tokens = [issue(store, name=f"t{i}") for i in range(8)]
    for token in tokens * 2:
        assert store.identify(token).subject == "token:alice"
    assert len(store._verified) <= 3


# When it was last used.


def last_used(store: TokenStore) -> int | None:
    (record,) = store.list()
    return record.last_used


def test_the_last_use_is_written_down_soon_and_then_once_a_minute(
    store: TokenStore, clock: Clock
) -> None:
    token = issue(store)
    assert last_used(store) is None
    store.identify(token)
    eventually(lambda: last_used(store) == NOW)
    clock.now += 59
    settled(store, token)
    statements = Statements(store._engine)
    eventually(lambda: statements.of_threads.count("tokens") >= 3)
    assert last_used(store) == NOW
    clock.now += 1
    store.identify(token)
    eventually(lambda: last_used(store) == NOW + 60)


def test_the_last_use_is_not_lost_when_the_store_is_closed(
    url: str, keys: KeyRing, clock: Clock, store: TokenStore
) -> None:
    with closing(TokenStore(url, keys, clock=clock)) as server:
        token = issue(server)
        settled(server, token)
        clock.now += 10
        server.identify(token)
    assert last_used(store) == NOW + 10


def test_closing_ends_the_thread_and_leaves_the_files_to_others(
    url: str, keys: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    store = TokenStore(url, keys, clock=clock)
    store.identify(issue(store))
    store.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "tokens"]
    assert [path.name for path in (tmp_path / "data").glob("*.db*")] == ["hyprstream.db"]


# The database.


def test_nothing_is_opened_before_it_is_needed(store: TokenStore, tmp_path: Path) -> None:
    assert not (tmp_path / "data").exists()


def test_the_database_is_its_owners_alone_and_written_ahead(tmp_path: Path, keys: KeyRing) -> None:
    path = tmp_path / "private" / "hyprstream.db"
    mask = os.umask(0)
    try:
        with closing(TokenStore(f"sqlite:///{path}", keys)) as store:
            issue(store)
            files = list(path.parent.glob("hyprstream.db*"))
            assert len(files) == 3
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        os.umask(mask)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_database_is_said_to_be_damaged(
    store: TokenStore, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hyprstream.db").write_bytes(b"hello, this is no database at all" * 100)
    with pytest.raises(Corrupt, match="not a database"):
        store.list()


def test_a_database_that_cannot_be_opened_is_unavailable(url: str, keys: KeyRing) -> None:
    Path(url.removeprefix("sqlite:///")).mkdir(parents=True)
    with closing(TokenStore(url, keys)) as store, pytest.raises(Unavailable, match="directory"):
        store.list()


def test_one_that_another_process_is_writing_is_read_meanwhile_and_not_waited_for_for_ever(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issue(store)
    store.identify(token)
    monkeypatch.setattr(
        "hyprstream.policy.database._PRAGMAS",
        ("PRAGMA busy_timeout = 1", "PRAGMA journal_mode=WAL"),
    )
    store._engine.dispose()
    with closing(sqlite3.connect(tmp_path / "data" / "hyprstream.db", timeout=SOON)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            store.revoke("dev")
        assert store.identify(token).subject == "token:alice"
    eventually(lambda: last_used(store) == NOW)


@pytest.mark.parametrize(
    "url", ["nonsense", "nosql://user:secret@host/db", "oracle://u:secret@h/d"]
)
def test_a_database_nobody_can_open_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_database(url)
    assert caught.value.param == "data.database_url"
    assert "secret" not in str(caught.value)


# How long.


@pytest.mark.parametrize(
    ("text", "lifetime"),
    [
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("4w", timedelta(weeks=4)),
        ("1y", timedelta(days=365)),
        ("100y", timedelta(days=36500)),
        ("never", None),
    ],
)
def test_a_lifetime_is_a_number_and_a_unit_or_never(text: str, lifetime: timedelta | None) -> None:
    assert parse_expiry(text) == lifetime


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "d",
        "0d",
        "-1d",
        "1.5d",
        "1 d",
        "30D",
        "1m",
        "101y",
        "999999y",
        "1d1h",
        "Never",
        "٣d",
    ],
)
def test_what_is_no_lifetime_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_expiry(text)
    assert caught.value.param == "expires"
    assert "30d" in (caught.value.hint or "")
