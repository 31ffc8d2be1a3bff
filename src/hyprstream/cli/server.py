"""`hyprstream server`: flags to settings, and the words around serving. Knows no HTTP."""

import errno
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.core.errors import Conflict, Invalid

if TYPE_CHECKING:
    from hyprstream.settings import ServerSettings, Settings


def server(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="Load this stored model at once; may be repeated. Others load when asked for.",
            autocompletion=options.complete_model,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to bind.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="TCP port; 0 takes a free one.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Let other machines in with neither key nor TLS."),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option("--tls-cert", metavar="FILE", help="PEM certificates: serve https."),
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", metavar="FILE", help="PEM key of the certificate.")
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(
            "--tls-client-ca", metavar="FILE", help="PEM authorities whose clients are let in."
        ),
    ] = None,
    n_ctx: Annotated[
        int | None, typer.Option("--n-ctx", help="Context window of one request, in tokens.")
    ] = None,
    n_slots: Annotated[
        int | None, typer.Option("--n-slots", help="Requests computed at the same time.")
    ] = None,
    n_threads: Annotated[
        int | None, typer.Option("--n-threads", help="Threads of computation.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = None,
) -> None:
    """Serve models over the OpenAI API.

    The API key is read from HYPRSTREAM_API_KEY or the configuration file: flags can be seen by every user of a machine.

    What no flag says comes from the environment and the configuration file: hyprstream config show.

    Example: hyprstream server --model smollm2 --port 8080
    """
    from hyprstream.settings import load

    flags: dict[str, object] = {
        "server.host": host,
        "server.port": port,
        "server.insecure": insecure,
        "server.tls_cert": tls_cert,
        "server.tls_key": tls_key,
        "server.tls_client_ca": tls_client_ca,
        "engine.n_ctx": n_ctx,
        "engine.n_slots": n_slots,
        "engine.n_threads": n_threads,
        "log.level": log_level,
    }
    settings = load(flags).settings
    refuse_exposure(settings.server)
    _serve(settings, models or [])


def refuse_exposure(server: "ServerSettings") -> None:
    """Nobody opens a port to other machines without a key by accident.

    Raises:
        Invalid: the address is not a loopback one, there is no API key and no TLS, and `insecure` is not set.
    """
    is_guarded = server.api_key is not None or server.tls_cert is not None
    if not is_guarded and not server.insecure and not server.is_loopback:
        raise Invalid(
            f"{server.host} can be reached from other machines, and there is neither an API key nor TLS",
            param="server.host",
            hint="set HYPRSTREAM_API_KEY, or --tls-cert and --tls-key, or say --insecure",
        )


def _serve(settings: "Settings", models: list[str]) -> None:
    from hyprstream import bootstrap

    model = (models or [settings.models.default])[0]

    def announce(url: str) -> None:
        example = curl_example(
            url,
            model,
            with_key=settings.server.api_key is not None,
            with_certificate=settings.server.tls_client_ca is not None,
        )
        console.show(f"hyprstream serves at {url}\n\n  {example}\n")

    try:
        bootstrap.serve(settings, models=models, on_started=announce)
    except OSError as error:
        raise _unbound(error, settings.server) from None


def _unbound(error: OSError, server: "ServerSettings") -> Exception:
    place = f"{server.host}:{server.port}"
    match error.errno:
        case errno.EADDRINUSE:
            hint = f"hyprstream server --port {server.port + 1}, or --port 0 for any free one"
            return Conflict(f"{place} is in use already", hint=hint)
        case errno.EACCES:
            return Conflict(f"{place} needs privileges", hint="hyprstream server --port 8080")
        case errno.EADDRNOTAVAIL:
            return Invalid(f"{server.host} is not an address of this machine", param="server.host")
        case _:
            return error


def curl_example(url: str, model: str, *, with_key: bool, with_certificate: bool = False) -> str:
    """A command that asks the server something."""
    certificate = "--cert client.pem --key client.key " if with_certificate else ""
    key = '-H "Authorization: Bearer $HYPRSTREAM_API_KEY" ' if with_key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"curl {url}/v1/chat/completions {certificate}{key}-H 'Content-Type: application/json' -d {shlex.quote(body)}"
