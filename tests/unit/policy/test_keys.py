"""The keys tokens are signed with: where they lie, who may read them, and how long they count."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hyprstream.core.errors import Conflict, Corrupt, NotFound
from hyprstream.policy.keys import KeyRing

MESSAGE = b"hello"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "data" / "keys")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nothing_is_made_before_it_is_needed(ring: KeyRing, tmp_path: Path) -> None:
    assert ring.kids() == []
    assert ring.public("0" * 18) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]


def test_the_first_use_makes_a_key_that_its_owner_alone_may_read(
    ring: KeyRing, tmp_path: Path
) -> None:
    kid = ring.current().kid
    (file,) = (tmp_path / "data" / "keys").iterdir()
    assert file.name == f"{kid}.key"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)


def test_a_directory_that_others_could_enter_is_closed(ring: KeyRing, tmp_path: Path) -> None:
    (tmp_path / "data" / "keys").mkdir(parents=True, mode=0o755)
    ring.current()
    assert mode(tmp_path / "data" / "keys") == 0o700


def test_what_a_key_signs_its_public_half_verifies(ring: KeyRing) -> None:
    key = ring.current()
    public = ring.public(key.kid)
    assert public is not None
    public.verify(key.private.sign(MESSAGE), MESSAGE)


def test_a_second_ring_finds_the_key_of_the_first(ring: KeyRing, tmp_path: Path) -> None:
    assert KeyRing(tmp_path / "data" / "keys").current().kid == ring.current().kid


def test_after_a_rotation_another_key_signs_and_the_old_one_still_verifies(ring: KeyRing) -> None:
    old = ring.current()
    signature = old.private.sign(MESSAGE)
    assert ring.rotate() == ring.current().kid != old.kid
    public = ring.public(old.kid)
    assert public is not None
    public.verify(signature, MESSAGE)
    assert ring.kids() == [old.kid, ring.current().kid]


def test_of_a_key_that_no_longer_signs_only_the_public_half_is_kept(
    ring: KeyRing, tmp_path: Path
) -> None:
    old = ring.current().kid
    new = ring.rotate()
    directory = tmp_path / "data" / "keys"
    assert sorted(path.name for path in directory.iterdir()) == [f"{old}.pub", f"{new}.key"]
    assert b"PRIVATE" not in (directory / f"{old}.pub").read_bytes()


def test_a_rotation_that_was_cut_short_is_completed_by_the_next(
    ring: KeyRing, tmp_path: Path
) -> None:
    first = ring.current().kid
    content = (tmp_path / "data" / "keys" / f"{first}.key").read_bytes()
    second = ring.rotate()
    (tmp_path / "data" / "keys" / f"{first}.key").write_bytes(content)
    assert ring.current().kid == second, "of two keys that could sign the newer does"
    third = ring.rotate()
    assert [path.stem for path in (tmp_path / "data" / "keys").glob("*.key")] == [third]
    assert ring.kids() == [first, second, third]


def test_a_retired_key_verifies_nothing_any_longer(ring: KeyRing) -> None:
    old = ring.current().kid
    ring.rotate()
    ring.retire(old)
    assert ring.public(old) is None
    with pytest.raises(NotFound):
        ring.retire(old)


def test_the_key_in_use_cannot_be_retired(ring: KeyRing) -> None:
    with pytest.raises(Conflict, match="in use"):
        ring.retire(ring.current().kid)


@pytest.mark.parametrize("kid", ["", "../../etc/passwd", "0" * 17, "0" * 18 + "\n", "A" * 18])
def test_what_is_no_id_names_no_file(ring: KeyRing, kid: str) -> None:
    ring.current()
    assert ring.public(kid) is None


def rsa_pem() -> bytes:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"hello", rsa_pem()])
def test_a_file_that_is_no_ed25519_key_is_named(
    ring: KeyRing, tmp_path: Path, content: bytes
) -> None:
    kid = ring.current().kid
    (tmp_path / "data" / "keys" / f"{kid}.key").write_bytes(content)
    for read in (ring.current, lambda: ring.public(kid)):
        with pytest.raises(Corrupt, match=f"{kid}.key"):
            read()


def test_a_key_is_not_shown_by_what_prints_it(ring: KeyRing) -> None:
    assert "private" not in repr(ring.current())
