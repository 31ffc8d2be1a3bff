"""Who holds this key? Knows the configured key; knows nothing of headers."""

import hmac

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import ANONYMOUS, Principal

KEY_HOLDER = Principal("token:api-key")


class Access:
    """Turns a presented key into a Principal."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key.encode() if api_key else None

    def identify(self, key: str | None) -> Principal:
        """The holder of `key`. Without a configured key everybody is anonymous, whatever dummy key they send.

        Raises:
            Unauthenticated: a key is configured and this is none, or another one.
        """
        if self._api_key is None:
            return ANONYMOUS
        if key is None:
            raise Unauthenticated(
                "an API key is needed", hint="send it as `Authorization: Bearer KEY`"
            )
        if not hmac.compare_digest(key.encode(), self._api_key):
            raise Unauthenticated(
                "the API key is not valid", hint="send the key set as HYPRSTREAM_API_KEY"
            )
        return KEY_HOLDER
