"""The use cases about the policy, tokens and the audit log, in a directory of their own."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hyprstream.bootstrap import open_policy
from hyprstream.core.principal import os_principal
from hyprstream.services.policy import PolicyTools
from hyprstream.settings import DataSettings, Settings

ME = os_principal()
"""Who owns the directory."""


def tools_in(directory: Path) -> AbstractContextManager[PolicyTools]:
    """Everything wired as at the command line."""
    directory.mkdir()
    return open_policy(Settings(data=DataSettings(dir=directory)))


def run_as(name: str, patch: pytest.MonkeyPatch) -> None:
    """Let this user of the machine run the commands that follow."""
    patch.setattr("hyprstream.core.principal.local_subject", lambda _uid: f"local:{name}")
