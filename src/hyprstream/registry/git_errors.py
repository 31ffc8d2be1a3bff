"""What a failing git says, in our words. Knows git's messages under LC_ALL=C; knows no process."""

import re
from collections.abc import Sequence

from hyprstream.core.errors import (
    Conflict,
    Corrupt,
    HyprstreamError,
    NotFound,
    SourceError,
    TooLarge,
)
from hyprstream.registry.remote_urls import redacted

MAX_MESSAGE_LENGTH = 400

_TO_REMOTES = frozenset({"clone", "fetch", "ls-remote", "push"})

# What is found first decides, so the particular stands before the general.
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_MALFORMED = re.compile(
    r"fsck error|in (?:\w+): \w+: .* \(|object \w+: (?:zeroPadded|has|missing|bad)\w*:|error in (?:tag|tree|commit|blob) [0-9a-f]"
)
_REJECTED = re.compile(r"\[(?:remote )?rejected\]|non-fast-forward|stale info|failed to push")
_HELD = re.compile(
    r"\.lock': File exists|cannot lock ref|unable to lock|but expected [0-9a-f]{7}|reference already exists"
    r"|already exists|would clobber"
)
_UNRELATED = re.compile(r"refusing to merge unrelated histories")
_NO_REPOSITORY = re.compile(
    r"does not appear to be a git repository|Repository not found|repository .* not found|returned error: 404"
)
_KEYLESS = re.compile(
    r"Authentication failed|could not read Username|terminal prompts disabled|returned error: 40[13]"
    r"|Permission denied|Host key verification failed"
)
_NO_REVISION = re.compile(
    r"unknown revision|bad revision|[Nn]ot a valid (?:object|commit|tree)|Needed a single revision"
    r"|couldn't find remote ref|invalid reference|invalid upstream|ambiguous argument|not something we can merge"
    r"|[Nn]ot a valid ref|No such remote|no such remote|unable to resolve reference"
)
_BROKEN = re.compile(
    r"corrupt|bad object|is empty|not a git repository|missing blob|missing tree|unable to read|bad signature"
    r"|garbage at end|inflate|hash mismatch|unable to find [0-9a-f]|invalid object"
)


def failure(args: Sequence[str], code: int, output: str) -> HyprstreamError:
    """The error to raise for a git that ended with `code` and said `output` (without secrets)."""
    command = args[0]
    said = _summary(output) or f"exit code {code}"
    if _FULL.search(output):
        return TooLarge(f"git {command}: the disk is full", hint="free some space, then try again")
    if command in _TO_REMOTES:
        return _remote_failure(command, output, said)
    if _UNRELATED.search(output):
        return Conflict(
            "the two versions have no commit in common", hint="only versions of one origin merge"
        )
    if _HELD.search(output):
        return Conflict(
            f"git {command}: {said}", hint="another process changed it meanwhile; try again"
        )
    if _NO_REVISION.search(output) and not re.search("corrupt", output):
        return NotFound(f"no such version: {said}", kind="revision", hint="hyprstream log NAME")
    hint = "hyprstream verify" if _BROKEN.search(output) else "see whether git fsck finds damage"
    return Corrupt(f"git {command}: {said}", hint=hint)


def _remote_failure(command: str, output: str, said: str) -> HyprstreamError:
    if _MALFORMED.search(output):
        return SourceError(
            f"the remote sent a malformed object, which is refused: {said}",
            hint="nothing was changed; its owner can find it with git fsck",
        )
    if re.search(r"couldn't find remote ref", output):
        return NotFound(f"the remote has no such branch: {said}", kind="revision")
    if command == "push" and _REJECTED.search(output):
        return Conflict(
            f"the remote does not take it: {said}",
            hint="its branch has moved or is protected; hyprstream pull first",
        )
    if _KEYLESS.search(output):
        return SourceError(
            f"the remote does not let us in: {said}",
            hint="https: give a token in the environment (HF_TOKEN for the Hugging Face Hub);"
            " ssh: an agent with a key, and a host key accepted beforehand",
        )
    if "dubious ownership" in output:
        return SourceError(
            "the remote's directory belongs to another user",
            hint="ask its owner for an address with ssh:// or https://, or copy it",
        )
    if _NO_REPOSITORY.search(output):
        return SourceError(f"there is no repository: {said}", hint="check the address")
    if _HELD.search(output):
        return Conflict(
            f"git {command}: {said}", hint="another process changed it meanwhile; try again"
        )
    return SourceError(f"git {command} failed: {said}", hint="try again")


def cleaned(text: str, secrets: Sequence[str] = ()) -> str:
    """Git's text without secrets, credentials in URLs, and characters that could steer a terminal."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = re.sub(r"(?<=://)[^/@\s]*@", "", text)
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def _summary(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(fatal|error|remote): |!", line)]
    chosen = telling or lines[-3:]
    text = "; ".join(re.sub(r"^(fatal|error): ", "", line) for line in chosen)
    return redacted(text) if "://" in text and "?" in text else text[:MAX_MESSAGE_LENGTH]
