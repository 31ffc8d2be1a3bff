"""Messages to prompt text, by the model's own chat template. Knows Jinja; knows no tokens and no models.

A template comes out of a model file and is foreign code: it runs in Jinja's sandbox, in a thread of its own, with a
limit on its time, its output and the size of any string it makes.
"""

import asyncio
import ctypes
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn, cast

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hyprstream.core.chat import Message
from hyprstream.core.errors import Invalid
from hyprstream.core.generation import EngineInfo

MAX_SECONDS = 1.0
MAX_OUTPUT = 8 * 2**20
"""Characters of a rendered prompt."""
MAX_REPEAT = 2**20
"""Elements of a string or list made by repetition, padding or exponentiation."""

_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_UNNEEDED_FILTERS = ("center", "format", "indent", "pprint", "random", "wordwrap", "xmlattr")


class _OutOfTime(Exception):
    """Raised inside a template that runs too long."""


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with the operators and methods bounded that turn a short template into a large string."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("string formatting is not allowed")
        if operator == "*":
            for count, repeated in ((left, right), (right, left)):
                if isinstance(repeated, str | bytes | list | tuple):
                    _check_size(len(cast("Sequence[object]", repeated)) * int(count))
        if operator == "**":
            _check_size(abs(int(right)) * abs(int(left)).bit_length())
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(__obj, "__self__", None), str | bytes):
            name = getattr(__obj, "__name__", "")
            if name in ("format", "format_map"):
                raise SecurityError("string formatting is not allowed")
            if name in _PADDING_METHODS:
                for arg in args:
                    _check_size(arg if isinstance(arg, int) else 0)
        return super().call(__context, __obj, *args, **kwargs)


def _check_size(n: int) -> None:
    if n > MAX_REPEAT:
        raise SecurityError(f"a value of {n} elements is too large")


class PromptRenderer:
    """Renders conversations. One thread runs every template, so a slow one delays prompts and never the event loop."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._executor = ThreadPoolExecutor(1, "template")
        self._lock = threading.Lock()
        self._running: tuple[object, int] | None = None
        """Which rendering the thread is at, and the thread."""

    async def render(self, info: EngineInfo, messages: tuple[Message, ...]) -> str:
        """The prompt that makes the model answer the last message.

        Raises:
            Invalid: the model has no template, or its template refuses these messages or breaks a limit.
        """
        if info.template is None:
            raise Invalid(
                "this model has no chat template",
                param="messages",
                hint="send a raw prompt to /v1/completions",
            )
        loop, rendering = asyncio.get_running_loop(), object()
        work = loop.run_in_executor(self._executor, self._render, rendering, info, messages)
        try:
            return await asyncio.wait_for(asyncio.shield(work), self._max_seconds)
        except TimeoutError:
            return await self._hurry(rendering, work)
        except _OutOfTime:
            raise self._out_of_time() from None

    async def _hurry(self, rendering: object, work: asyncio.Future[str]) -> str:
        # It may have spent its time waiting for the thread behind a slower one; then it gets its turn first.
        while not work.done():
            self._interrupt(rendering)
            await asyncio.wait([work], timeout=self._max_seconds)
        try:
            return work.result()
        except _OutOfTime:
            raise self._out_of_time() from None

    def _render(self, rendering: object, info: EngineInfo, messages: tuple[Message, ...]) -> str:
        assert info.template is not None, "render() has looked"
        self._running = rendering, threading.get_ident()
        try:
            return _expand(info.template, _variables(info, messages))
        except (TemplateError, SecurityError) as error:
            raise _rejected(error.message or type(error).__name__) from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
            raise _rejected(f"{type(error).__name__}: {error}") from None
        except (ValueError, MemoryError) as error:
            raise _rejected(str(error) or type(error).__name__) from None
        finally:
            with self._lock:
                self._running = None

    def _interrupt(self, rendering: object) -> None:
        with self._lock:
            if self._running is not None and self._running[0] is rendering:
                # The only way to stop Python code that never yields; it takes effect at the next bytecode.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._running[1]), ctypes.py_object(_OutOfTime)
                )

    def _out_of_time(self) -> Invalid:
        return _rejected(f"it ran longer than {self._max_seconds:g} s")

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _expand(template: str, variables: Mapping[str, object]) -> str:
    pieces: list[str] = []
    n_characters = 0
    for piece in _compile(template).generate(variables):
        n_characters += len(piece)
        if n_characters > MAX_OUTPUT:
            raise SecurityError(f"its output is longer than {MAX_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def _variables(info: EngineInfo, messages: tuple[Message, ...]) -> dict[str, object]:
    return {
        "messages": [_as_dict(message) for message in messages],
        "add_generation_prompt": True,
        "bos_token": info.bos,
        "eos_token": info.eos,
        "tools": None,
        "documents": None,
    }


def _as_dict(message: Message) -> dict[str, str]:
    fields = {"role": message.role, "content": message.content}
    return fields if message.name is None else {**fields, "name": message.name}


@lru_cache(maxsize=16)
def _compile(source: str) -> Any:
    # The settings, functions and filters are those that chat templates are written for (`apply_chat_template` of
    # Hugging Face transformers): blocks trimmed, JSON not escaped for HTML.
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    for name in _UNNEEDED_FILTERS:
        environment.filters.pop(name)
    functions = cast("dict[str, object]", environment.globals)
    functions.pop("lipsum")
    functions.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment.from_string(source)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _check_size(indent or 0)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message)[:500])


def _strftime_now(pattern: str) -> str:
    return datetime.now(UTC).astimezone().strftime(pattern)


def _rejected(reason: str) -> Invalid:
    return Invalid(
        f"the model's chat template rejected the messages: {reason}",
        param="messages",
        hint="roles this template does not know are the usual cause",
    )
