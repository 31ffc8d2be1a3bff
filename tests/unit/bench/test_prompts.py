"""Prompts both sides can be given."""

from hyprstream.bench.prompts import HIGHEST, LOWEST, prompts


def test_prompts_have_exactly_the_length_asked_for() -> None:
    assert [len(prompt) for prompt in prompts(3, n_tokens=17, seed="s")] == [17, 17, 17]


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    assert prompts(2, n_tokens=8, seed="s") == prompts(2, n_tokens=8, seed="s")
    assert prompts(2, n_tokens=8, seed="s") != prompts(2, n_tokens=8, seed="t")


def test_more_streams_do_not_begin_with_the_prompts_of_fewer() -> None:
    fewer, more = prompts(1, n_tokens=8, seed="s"), prompts(2, n_tokens=8, seed="s")
    assert fewer[0] not in more


def test_ids_are_ordinary_tokens_of_any_vocabulary() -> None:
    [prompt] = prompts(1, n_tokens=500, seed="s")
    assert all(LOWEST <= token < HIGHEST for token in prompt)
