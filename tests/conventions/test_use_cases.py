"""Every use case asks the policy before anything else."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any, NoReturn

import pytest

import hyprstream.services
from hyprstream.core.errors import Denied, NotFound
from hyprstream.core.principal import ANONYMOUS, Action, Principal, Resource

UseCase = Callable[..., Any]


class Refusal:
    """A policy that says no."""

    def __init__(self) -> None:
        self.is_asked = False

    def require(self, principal: Principal, action: Action, resource: Resource) -> NoReturn:
        self.is_asked = True
        raise Denied(f"{principal} may not {action} {resource}")

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        return False


class Untouchable:
    """Stands for everything a use case may use only after it has asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was used before the policy was asked")


class Request:
    """An argument whose values are read freely: the policy is asked about them."""

    name, ref, full = "some", "model", "some:model"

    @property
    def model(self) -> "Request":
        return self


def modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(hyprstream.services.__path__, "hyprstream.services."):
        yield importlib.import_module(module.name)


def _use_cases() -> Iterator[tuple[type, str]]:
    """Every public method of a service whose caller is a principal."""
    for module in modules():
        for cls in vars(module).values():
            is_service = inspect.isclass(cls) and cls.__name__.endswith("Service")
            if is_service and cls.__module__ == module.__name__:
                for name, method in inspect.getmembers(cls, inspect.isfunction):
                    takes = list(inspect.signature(method).parameters)
                    if not name.startswith("_") and "principal" in takes:
                        yield cls, name


USE_CASES = list(_use_cases())


def service(cls: type, policy: Refusal) -> Any:
    """A service of which only the policy works."""
    parts = {
        name: policy if name == "policy" else Untouchable()
        for name in list(inspect.signature(cls).parameters)
    }
    return cls(**parts)


def test_there_are_use_cases_to_look_at() -> None:
    assert {f"{cls.__name__}.{name}" for cls, name in USE_CASES} >= {
        "ChatService.chat",
        "ChatService.complete",
        "ModelService.list",
        "ModelService.get",
    }


@pytest.mark.parametrize(("cls", "name"), USE_CASES)
async def test_every_use_case_asks_the_policy_before_anything_else(cls: type, name: str) -> None:
    policy = Refusal()
    method = getattr(service(cls, policy), name)
    arguments = [Request() for p in inspect.signature(method).parameters if p != "principal"]
    # What somebody may not see is not there.
    with pytest.raises((Denied, NotFound)):
        result = method(ANONYMOUS, *arguments)
        if isinstance(result, AbstractAsyncContextManager):
            async with result:
                pass
        elif inspect.isawaitable(result):
            await result
    assert policy.is_asked


@pytest.mark.parametrize(("cls", "name"), USE_CASES)
def test_the_principal_comes_first(cls: type, name: str) -> None:
    assert list(inspect.signature(getattr(cls, name)).parameters)[:2] == ["self", "principal"]
