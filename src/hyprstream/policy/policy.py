"""Who may do what. Knows principals, actions, resources; knows no HTTP and no models.

One rule for now: where an API key is configured, whoever does not hold one may do nothing.
"""

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import Action, Principal, Resource


class KeyPolicy:
    """Denies the anonymous everything while a key is required; allows the rest."""

    def __init__(self, *, key_required: bool) -> None:
        self._key_required = key_required

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        """Return if `principal` may do `action` to `resource`.

        Raises:
            Unauthenticated: a key is needed and none was sent.
        """
        if self._key_required and principal.is_anonymous:
            raise Unauthenticated(
                f"an API key is needed to {action} {resource}",
                hint="send it as `Authorization: Bearer KEY`",
            )
