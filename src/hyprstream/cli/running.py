"""What the server of these settings has in memory, if one runs here. Knows its list of models; starts and changes nothing."""

import http.client
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from hyprstream.settings import ServerSettings

SECONDS = 0.5
MAX_BYTES = 4 << 20


class _Status(BaseModel):
    value: str


class _Model(BaseModel):
    id: str
    status: _Status


class _Models(BaseModel):
    data: list[_Model]


def loaded_models(server: "ServerSettings") -> frozenset[str] | None:
    """Models in memory, as `name:branch`; None where no server answers at the address, or it does not let us look."""
    if not server.is_loopback or server.tls_cert is not None or not server.port:
        return None
    key = server.api_key.get_secret_value() if server.api_key else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection = http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)
    try:
        connection.request("GET", "/v1/models", headers=headers)
        models = _Models.model_validate_json(connection.getresponse().read(MAX_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        # Nobody, something else, or an error in place of the list.
        return None
    finally:
        connection.close()
    return frozenset(model.id for model in models.data if model.status.value == "loaded")
