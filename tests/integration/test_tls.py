"""TLS on a real socket, with certificates made here."""

import asyncio
import datetime
import socket
import ssl
import sys
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from hyprstream.core.errors import Invalid
from hyprstream.server.peer import proven_peer
from hyprstream.server.run import Server
from hyprstream.server.tls import tls_context
from support.front_door import SOON

EPOCH = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._key = generate_private_key(SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, directory.name)])
        self.cert = directory / "ca.pem"
        built = self._builder(self._name, self._key.public_key(), is_authority=True)
        self.cert.write_bytes(built.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str | None,
        *dns: str,
        encryption: KeySerializationEncryption | None = None,
    ) -> Pair:
        key = generate_private_key(SECP256R1())
        common = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else []
        builder = self._builder(x509.Name(common), key.public_key(), is_authority=False)
        names = [x509.DNSName(each) for each in (dns or ("localhost",))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common)
        stem = name or dns[0]
        pair = Pair(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        pair.cert.write_bytes(builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
        )
        return pair

    def _builder(
        self, name: x509.Name, key: object, *, is_authority: bool
    ) -> x509.CertificateBuilder:
        ours = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(EPOCH)
            .not_valid_after(END)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
        )


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "foreign")


async def tell_peer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    response = PlainTextResponse(f"{scope['scheme']} {proven_peer(Request(scope))}")
    await response(scope, receive, send)


@asynccontextmanager
async def serving(pair: Pair, client_ca: Path | None = None) -> AsyncGenerator[str]:
    """A block during which the server answers at the URL."""
    tls = tls_context(pair.cert, pair.key, client_ca)
    server = Server(tell_peer, "127.0.0.1", 0, grace_seconds=1, tls=tls)
    async with server.running():
        yield server.url.replace("127.0.0.1", "localhost")


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return context


async def get(url: str, context: ssl.SSLContext, **headers: str) -> str:
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=SOON) as client:
        return (await client.get(url, headers=headers)).text


async def test_https_is_spoken_and_said(ours: Authority) -> None:
    async with serving(ours.issue("server")) as url:
        assert url.startswith("https://")
        assert (await get(url, trusting(ours))).startswith("https local:")


async def test_a_client_that_does_not_know_the_authority_is_not_served(
    ours: Authority, foreign: Authority
) -> None:
    async with serving(ours.issue("server")) as url:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(url, trusting(foreign))
        assert await get(url, trusting(ours))


async def test_plain_http_is_not_answered_on_the_same_port(ours: Authority) -> None:
    async with serving(ours.issue("server")) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await get(url.replace("https", "http"), trusting(ours))
        assert await get(url, trusting(ours))


@pytest.mark.parametrize(
    ("version", "is_let_in"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_tls_1_2_is_the_least(
    ours: Authority, version: ssl.TLSVersion, is_let_in: bool
) -> None:
    context = trusting(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    # So that it is not our own side that refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(ours.issue("server")) as url:
        port = int(url.rpartition(":")[2])
        if is_let_in:
            assert await asyncio.to_thread(shake_hands, port, context) == version
        else:
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(shake_hands, port, context)


def shake_hands(port: int, context: ssl.SSLContext) -> ssl.TLSVersion:
    with (
        socket.create_connection(("127.0.0.1", port), SOON) as wire,
        context.wrap_socket(wire, server_hostname="localhost") as tls,
    ):
        return ssl.TLSVersion[str(tls.version()).replace(".", "_")]


def test_it_is_our_side_that_refuses_what_is_older(ours: Authority) -> None:
    pair = ours.issue("server")
    server, client = tls_context(pair.cert, pair.key, None), trusting(ours)
    assert server is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    hello, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(answer, hello, server_hostname="localhost").do_handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.wrap_bio(hello, answer, server_side=True).do_handshake()


async def test_a_client_certificate_makes_a_peer(ours: Authority) -> None:
    async with serving(ours.issue("server"), ours.cert) as url:
        context = trusting(ours, ours.issue("node-7", "elsewhere.example"))
        assert await get(url, context) == "https peer:node-7"
        forwarding = {"X-Forwarded-For": "192.0.2.1"}
        assert await get(url, context, **forwarding) == "https peer:node-7"


async def test_a_certificate_without_a_common_name_is_known_by_its_first_dns_name(
    ours: Authority,
) -> None:
    async with serving(ours.issue("server"), ours.cert) as url:
        context = trusting(ours, ours.issue(None, "a.example", "b.example"))
        assert await get(url, context) == "https peer:a.example"


async def test_the_wrong_authority_or_no_certificate_is_not_let_in(
    ours: Authority, foreign: Authority
) -> None:
    async with serving(ours.issue("server"), ours.cert) as url:
        for client in (None, foreign.issue("node-7")):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                await get(url, trusting(ours, client))
        assert await get(url, trusting(ours, ours.issue("node-8"))) == "https peer:node-8"


def test_without_files_there_is_no_tls() -> None:
    assert tls_context(None, None, None) is None


def refused(cert: Path | None, key: Path | None, client_ca: Path | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        tls_context(cert, key, client_ca)
    assert caught.value.param is not None
    assert caught.value.message.startswith(caught.value.param)
    return caught.value


def test_half_of_a_pair_is_refused_and_names_the_other_half(ours: Authority) -> None:
    pair = ours.issue("server")
    assert refused(pair.cert, None).param == "server.tls_key"
    assert refused(None, pair.key).param == "server.tls_cert"
    assert refused(None, None, ours.cert).param == "server.tls_cert"


def test_a_key_of_another_certificate_is_refused(ours: Authority) -> None:
    error = refused(ours.issue("one").cert, ours.issue("two").key)
    assert error.param == "server.tls_key"
    assert "is not the key of" in error.message


def test_what_is_not_there_or_not_pem_is_named_with_its_setting(
    ours: Authority, tmp_path: Path
) -> None:
    pair, absent, rubbish = ours.issue("server"), tmp_path / "absent", tmp_path / "rubbish"
    rubbish.write_bytes(b"-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n")
    for wrong in (absent, rubbish, tmp_path, pair.key):
        error = refused(wrong, pair.key)
        assert (error.param, str(wrong) in error.message) == ("server.tls_cert", True)
        error = refused(pair.cert, pair.key, wrong)
        assert (error.param, str(wrong) in error.message) == ("server.tls_client_ca", True)
    for wrong in (absent, rubbish, tmp_path, pair.cert):
        error = refused(pair.cert, wrong)
        assert (error.param, str(wrong) in error.message) == ("server.tls_key", True)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(ours: Authority) -> None:
    pair = ours.issue("server", encryption=BestAvailableEncryption(b"secret"))
    assert "without a password" in refused(pair.cert, pair.key).message


PROGRAM = """
import sys
from pathlib import Path
from hyprstream.server.run import run, serve

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

cert, key = map(Path, sys.argv[1:])
run(serve(app, "127.0.0.1", 0, grace_seconds=0, tls_cert=cert, tls_key=key,
          on_started=lambda url: print(url, flush=True)))
"""


async def test_the_url_that_is_printed_says_https(ours: Authority) -> None:
    pair = ours.issue("server")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, pair.cert, pair.key, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), SOON)
    assert line.startswith(b"https://127.0.0.1:")
    process.terminate()
    assert await asyncio.wait_for(process.wait(), SOON) == 0
