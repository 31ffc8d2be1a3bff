"""Everything a front door may call, in one value. `bootstrap` makes it; `server` and `cli` receive it."""

from dataclasses import dataclass

from hyprstream.services.access import Access
from hyprstream.services.chat import ChatService
from hyprstream.services.models import ModelService
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases."""

    access: Access
    chat: ChatService
    models: ModelService
    pool: EnginePool
    prompts: PromptRenderer

    async def aclose(self) -> None:
        """End every request and unload every model."""
        await self.pool.aclose()
        self.prompts.close()
