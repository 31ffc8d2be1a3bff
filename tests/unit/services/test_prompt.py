"""Messages to prompt text, by a template that may be hostile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.core.chat import Message
from hyprstream.core.errors import Invalid
from hyprstream.core.generation import EngineInfo
from hyprstream.services.prompt import PromptRenderer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
HELLO = (Message("user", "Hello"),)


def info(template: str | None) -> EngineInfo:
    return EngineInfo(64, 64, 258, 1, 0, 0, template, "<s>", "</s>", "test")


@pytest.fixture
def renderer() -> Iterator[PromptRenderer]:
    renderer = PromptRenderer(max_seconds=0.5)
    yield renderer
    renderer.close()


async def test_a_conversation_becomes_the_prompt_of_the_models_template(
    renderer: PromptRenderer,
) -> None:
    messages = (Message("system", "Be brief."), *HELLO)
    assert await renderer.render(info(CHATML), messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_a_template_has_what_templates_are_written_for(renderer: PromptRenderer) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ eos_token }}{{ '%d' | string }}{{ strftime_now('%Y') | length }}"
    )
    rendered = await renderer.render(info(template), (*HELLO, Message("user", "<ä>", "Ann")))
    assert rendered == '<s>{"role": "user", "content": "<ä>", "name": "Ann"}</s>%d4'


async def test_a_template_that_refuses_says_why(renderer: PromptRenderer) -> None:
    with pytest.raises(Invalid, match="no system role here"):
        await renderer.render(info("{{ raise_exception('no system role here') }}"), HELLO)


async def test_a_model_without_a_template_is_told_apart(renderer: PromptRenderer) -> None:
    with pytest.raises(Invalid, match="no chat template"):
        await renderer.render(info(None), HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ lipsum.__globals__['os'].popen('touch canary').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ (''|attr('__init__')|attr('__globals__'))['os'] }}",
        "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{% set f = '{0.__class__.__mro__}'.format %}{{ f(messages) }}",
        "{{ '{0.__class__}'.format_map({'0': 1}) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
    ],
)
async def test_a_hostile_template_cannot_reach_python(
    renderer: PromptRenderer, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid):
        await renderer.render(info(template), HELLO)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}xxxx{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ 'x' * 50000000 }}",
        "{{ 50000000 * 'x' }}",
        "{{ ([0] * 99999999) | length }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ messages | tojson(indent=999999999) }}",
    ],
)
async def test_a_bomb_in_a_template_is_defused(renderer: PromptRenderer, template: str) -> None:
    with pytest.raises(Invalid):
        await renderer.render(info(template), HELLO)
    assert await renderer.render(info("{{ messages[0].content }}"), HELLO) == "Hello"


@pytest.mark.parametrize("template", ["{{ unclosed", "{{ missing.attribute.of }}", "{{ 1 / 0 }}"])
async def test_a_broken_template_is_a_clear_error(renderer: PromptRenderer, template: str) -> None:
    with pytest.raises(Invalid, match="template rejected"):
        await renderer.render(info(template), HELLO)
