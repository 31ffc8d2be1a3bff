"""Where a repository may be fetched from. Knows which addresses git may be given; opens none of them.

https://host/path    ssh://user@host/path    user@host:path    file:///path    /path
http://localhost/…   this machine only: elsewhere anybody on the way could read a token and change the bytes
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from hyprstream.core.errors import Invalid

MAX_URL_LENGTH = 2048
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_SCP = re.compile(
    r"(?P<user>[A-Za-z0-9._][A-Za-z0-9._-]*@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^:/-][^:]*)"
)
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9a-fA-F:.]+")
_USER = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")


def check_remote_url(url: str) -> str:
    """The URL as git is given it: as it was, but a path on this machine made an absolute `file://`.

    Raises:
        Invalid: it holds a password, or is of a kind that is not fetched from. The message does not repeat passwords.
    """
    if not url or len(url) > MAX_URL_LENGTH or not url.isprintable():
        raise _refused("it is empty, too long or holds control characters")
    if url.startswith("-") or "::" in url.partition("/")[0]:
        # git reads the first as an option and runs a program for the second.
        raise _refused(f"{url[:40]!r} is not an address")
    if "://" in url:
        return _check_scheme(url)
    if _is_scp_like(url):
        return url
    return Path(url).expanduser().absolute().as_uri()


def transport_of(url: str) -> str:
    """Git's name of the way a checked URL is reached: `file`, `https`, `http` or `ssh`."""
    return urlsplit(url).scheme.lower() if "://" in url else "ssh"


def host_of(url: str) -> str | None:
    """The host of a checked URL, in lower case; None for `file`."""
    if "://" in url:
        return urlsplit(url).hostname
    return url.partition(":")[0].rpartition("@")[2].lower()


def redacted(url: str) -> str:
    """The URL without what may be a secret in it, to be shown."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", url).partition("?")[0]


def _is_scp_like(url: str) -> bool:
    return bool(_SCP.fullmatch(url)) and "/" not in url.partition(":")[0]


def _check_scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        raise _refused("it cannot be read") from None
    scheme = parts.scheme.lower()
    if scheme not in ("https", "http", "ssh", "file"):
        raise _refused(f"{scheme or url[:20]!r} is not among file, https and ssh")
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise _refused("a file:// address begins with three slashes")
        return url
    if scheme == "http" and parts.hostname not in LOOPBACK:
        raise _refused(f"http reaches this machine only, not {parts.hostname}", "write https://")
    _check_authority(scheme, parts)
    return url


def _check_authority(scheme: str, parts: SplitResult) -> None:
    if parts.password is not None or (scheme != "ssh" and parts.username is not None):
        raise Invalid(
            f"the address of {parts.hostname} holds a user name or password",
            param="url",
            hint="leave out what stands before the @, and give a token in the environment: HF_TOKEN for the Hugging Face Hub,"
            " or use an ssh:// address with a key",
        )
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise _refused("it names no host")
    if parts.username is not None and not _USER.fullmatch(parts.username):
        raise _refused("its user name is none")
    if parts.query or parts.fragment:
        raise _refused("an address of a repository has no ? or #")


def _refused(reason: str, hint: str = "use a file, https or ssh address") -> Invalid:
    return Invalid(f"no repository can be fetched from there: {reason}", param="url", hint=hint)
