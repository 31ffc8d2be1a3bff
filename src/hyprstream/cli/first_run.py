"""The first policy of a fresh installation, given visibly by the commands that show the way. Knows the template to apply."""

from typing import TYPE_CHECKING

from hyprstream.cli import console
from hyprstream.core.principal import os_principal

if TYPE_CHECKING:
    from hyprstream.settings import Settings

TEMPLATE = "local"


def allow_local_users(settings: "Settings") -> None:
    """Where no policy has ever been applied, apply `local`, and say so and how to undo it."""
    from hyprstream.bootstrap import open_policy

    with open_policy(settings) as tools:
        if tools.policy.show(os_principal()).version is not None:
            return
        tools.policy.apply_template(os_principal(), TEMPLATE)
    console.say(
        f"$ hyprstream policy apply-template {TEMPLATE}\n"
        "no policy was there, and without one everything is denied: from now on the users of this machine may do everything"
        "\n  undo it: hyprstream policy rollback"
    )
