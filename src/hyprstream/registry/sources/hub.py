"""GGUF files of a Hugging Face repository. Knows the hub's file lists and naming habits; `web.py` moves the bytes."""

import os
import re
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from hyprstream.core.errors import Invalid, NotFound, SourceError
from hyprstream.registry.sources.base import (
    MODEL_FILE,
    SHARD,
    Answers,
    Choice,
    Downloading,
    Licence,
    Offer,
    OfferedFile,
    ref_for_file,
)
from hyprstream.registry.sources.web import Web, WebOptions, origin

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

PREFIX = "hf:"
_TIMEOUT_S = 30.0
_COMPANION = re.compile(r"mmproj|draft|imatrix")
"""Files that go with a model and are none themselves: image projectors, draft models, importance matrices."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One GGUF of a repository."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository, and which of its models is wanted."""

    repo: str
    pattern: str | None = None
    """A file name, a glob, or a quantisation like `Q4_K_M`; None if the repository has only one model."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `hf:user/repo[:pattern]`.

        Raises:
            Invalid: the text does not follow the grammar.
        """
        repo, _, pattern = text.removeprefix(PREFIX).partition(":")
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
            raise Invalid(f"{text[:120]!r} is not hf:user/repo[:file or quantisation]")
        return cls(repo, pattern or None)

    def offer(self, answers: Answers) -> Offer:
        info = _ask_hub(self.repo)
        models, companions = group_files(_gguf_files(info))
        name = self._choose(models, answers)
        files = models[name]
        return Offer(
            source=f"{PREFIX}{self.repo}:{name}",
            ref=ref_for_file(name),
            files=tuple(
                OfferedFile(
                    MODEL_FILE if len(files) == 1 else PurePosixPath(file.path).name,
                    file.sha256,
                    file.size,
                    _url(self.repo, file.path, info.sha),
                )
                for file in files
            ),
            n_bytes_needed=_size(files),
            licence=_licence(info),
            notes=tuple(f"{file.path} is there too and was not pulled" for file in companions),
        )

    def fetch(self, offer: Offer, directory: Path) -> Generator[Downloading, None, None]:
        completed = 0
        token = _token()
        with Web(WebOptions({origin(_endpoint()): f"Bearer {token}"} if token else {})) as web:
            for file in offer.files:
                progress = web.download(
                    file.location, directory, sha256=file.sha256, size=file.size
                )
                for n_bytes, _ in progress:
                    yield Downloading(file.name, completed + n_bytes, offer.n_bytes_needed)
                completed += file.size or 0

    def _choose(self, models: dict[str, list[HubFile]], answers: Answers) -> str:
        names = [name for name in models if self.pattern is None or _matches(name, self.pattern)]
        if not names:
            raise NotFound(
                f"hf:{self.repo} has no GGUF" + (f" for {self.pattern!r}" if models else ""),
                kind="file",
                hint=f"it has {_listed(models, models)}" if models else None,
            )
        if len(names) == 1:
            return names[0]
        choices = [Choice(name, _size(models[name])) for name in names]
        if (chosen := answers.choose(choices)) is not None:
            return chosen.name
        raise Invalid(
            f"hf:{self.repo} has {len(names)} models: {_listed(names, models)}",
            hint=f"name one, as in hf:{self.repo}:{PurePosixPath(names[0]).name}",
        )


def group_files(files: Sequence[HubFile]) -> tuple[dict[str, list[HubFile]], list[HubFile]]:
    """The models by the path of their first file, the shards of one in order; and the files that only go with one.

    Raises:
        SourceError: a split model lacks a shard.
    """
    groups: dict[str, dict[int, HubFile]] = defaultdict(dict)
    n_shards: dict[str, int] = {}
    companions: list[HubFile] = []
    for file in sorted(files, key=lambda file: file.path):
        stem = file.path.removesuffix(PurePosixPath(file.path).suffix)
        shard = SHARD.search(stem)
        key = stem[: shard.start()] if shard else stem
        if _COMPANION.search(PurePosixPath(file.path).name.lower()):
            companions.append(file)
        else:
            groups[key][int(shard["index"]) if shard else 1] = file
            n_shards[key] = int(shard["count"]) if shard else 1
    for key, shards in groups.items():
        if len(shards) != n_shards[key]:
            raise SourceError(f"{key} has {len(shards)} of its {n_shards[key]} shards at the hub")
    models = [[shards[i] for i in sorted(shards)] for shards in groups.values()]
    return {shards[0].path: shards for shards in models}, companions


def _matches(path: str, pattern: str) -> bool:
    path, wanted = path.lower(), pattern.lower()
    name = PurePosixPath(path).name
    is_quantisation = re.search(rf"(^|[-._/]){re.escape(wanted)}($|[-._/])", path) is not None
    return fnmatchcase(name, wanted) or fnmatchcase(path, wanted) or is_quantisation


def _listed(
    names: Sequence[str] | dict[str, list[HubFile]], models: dict[str, list[HubFile]]
) -> str:
    return ", ".join(f"{name} ({_size(models[name]) / 1e6:,.1f} MB)" for name in names)


def _size(files: Sequence[HubFile]) -> int:
    return sum(file.size for file in files)


def _ask_hub(repo: str) -> "ModelInfo":
    # A model server tells nobody what else runs on its machine.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    with _our_errors(repo):
        return HfApi(_endpoint(), token=_token() or False).model_info(
            repo, files_metadata=True, timeout=_TIMEOUT_S
        )


@contextmanager
def _our_errors(repo: str) -> Generator[None]:
    import httpx2  # what huggingface_hub speaks HTTP with; it lets the errors of its connections through
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise SourceError(
            f"hf:{repo} is gated",
            hint="accept its terms on its page, then set HF_TOKEN to a token that may read it",
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"no repository hf:{repo}",
            hint="if it is private, set HF_TOKEN to a token that may read it",
        ) from error
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise SourceError(
            f"the hub does not answer for hf:{repo} ({type(error).__name__})",
            hint="check the network, HF_ENDPOINT and HF_TOKEN",
        ) from error


def token_for(host: str) -> str | None:
    """The user's token, for the hub's own host and for no other."""
    return _token() if host == urlsplit(_endpoint()).hostname else None


def _gguf_files(info: "ModelInfo") -> list[HubFile]:
    return [
        HubFile(file.rfilename, file.lfs.sha256, file.lfs.size)
        for file in info.siblings or []
        # Without LFS there is no digest to hold the bytes against.
        if file.rfilename.lower().endswith(".gguf") and file.lfs is not None
    ]


def _licence(info: "ModelInfo") -> Licence | None:
    licence = info.card_data.license if info.card_data else None
    return Licence(licence) if isinstance(licence, str) else None


def _endpoint() -> str:
    from huggingface_hub import constants

    # huggingface_hub reads the variable once, when it is first imported.
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _url(repo: str, path: str, commit: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, path, revision=commit, endpoint=_endpoint())


def _token() -> str | None:
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
