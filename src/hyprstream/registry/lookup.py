"""What references mean here: names, UUIDs, branches, tags, commits, digests. Each means one version; none stands in for another."""

import difflib

from hyprstream.core.errors import Corrupt, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES, DEFAULT_ALIAS
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.state import Record

MAX_CACHED_ANSWERS = 10_000


class Lookup:
    """Finds models and versions of one registry."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._holders: dict[tuple[str, str, frozenset[str]], tuple[str, ...]] = {}

    def model(self, ref: ModelRef) -> tuple[str, Record]:
        """Name and record of the model that a reference names.

        Raises:
            NotFound: there is none; the hint says what is near, or how to get it.
        """
        state = self._shelf.state
        if not ref.is_uuid:
            try:
                return ref.name, state.read(ref.name)
            except NotFound:
                raise NotFound(f"no model {str(ref)!r}", hint=self._way_to(ref)) from None
        for name in state.names():
            if (record := state.find(name)) is not None and record.id == ref.name:
                return name, record
        raise NotFound(f"no model {str(ref)!r}", hint="hyprstream list")

    def commit(self, name: str, repository: ModelRepository, ref: ModelRef) -> str:
        """The full id of the commit that a reference to this model names.

        Raises:
            NotFound: there is none; the hint says what is near.
            Conflict: it is the beginning of several.
        """
        if ref.is_digest:
            return self._commit_with(name, repository, ref)
        try:
            return repository.resolve(ref.ref)
        except NotFound as error:
            if ref in ALIASES:
                error.hint = f"hyprstream pull {ref}"
            raise

    def _commit_with(self, name: str, repository: ModelRepository, ref: ModelRef) -> str:
        """The newest commit that serves the weights a digest names; branches before tags before history."""
        digest = ref.ref.removeprefix("sha256:")
        heads = repository.branches()
        tips = [
            heads[branch] for branch in sorted(heads, key=lambda branch: (branch != "main", branch))
        ]
        for commit in dict.fromkeys([*tips, *repository.tags().values()]):
            if self._serves(name, commit, digest):
                return commit
        commits = repository.git.run("rev-list", "--branches", "--tags").decode().split()
        for commit in commits:
            if self._serves(name, commit, digest):
                return commit
        raise NotFound(
            f"no version of {name} has the weights {digest}",
            kind="version",
            hint="hyprstream inspect names those of a branch",
        )

    def _serves(self, name: str, commit: str, digest: str) -> bool:
        try:
            contents = self._shelf.contents(name, commit)
        except (NotFound, Corrupt):
            return False
        return contents.facts is not None and contents.sha256 == digest

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        """The branches that hold the version a reference names; of a branch, itself.

        Raises:
            NotFound: there is no such version.
        """
        name, _ = self.model(ref)
        repository = self._shelf.repository(name)
        heads = repository.branches()
        if ref.ref in heads:
            return (ModelRef(name, ref.ref),)
        commit = self.commit(name, repository, ref)
        key = (name, commit, frozenset(f"{at} {branch}" for branch, at in heads.items()))
        if (found := self._holders.get(key)) is None:
            output = repository.git.run(
                "for-each-ref", "--format=%(refname)", f"--contains={commit}", "refs/heads/"
            )
            found = tuple(line.removeprefix("refs/heads/") for line in output.decode().split())
            if len(self._holders) >= MAX_CACHED_ANSWERS:
                self._holders.clear()
            self._holders[key] = found
        return tuple(ModelRef(name, branch) for branch in found)

    def _way_to(self, ref: ModelRef) -> str:
        if ref in ALIASES:
            return f"hyprstream pull {ref}"
        names = self._shelf.state.names()
        aliases = [str(alias) for alias in ALIASES]
        if near := difflib.get_close_matches(ref.name, names, cutoff=0.5):
            return f"did you mean {' or '.join(near)}?"
        if near := difflib.get_close_matches(str(ref), aliases, n=1, cutoff=0.5):
            return f"hyprstream pull {near[0]}"
        return "hyprstream list" if names else f"hyprstream pull {DEFAULT_ALIAS}"
