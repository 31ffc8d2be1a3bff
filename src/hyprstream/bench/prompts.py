"""Prompts of an exact length that never repeat. Knows token ids; knows no text and no tokenizer."""

import random

LOWEST, HIGHEST = 1_000, 20_000
"""Range of the ids: above the control and byte tokens, below the end of any common vocabulary."""


def prompts(n: int, *, n_tokens: int, seed: str) -> list[list[int]]:
    """`n` prompts of `n_tokens` token ids each; the same seed and sizes give the same ones.

    Token ids go over the wire as they are (`prompt` of OpenAI's `POST /v1/completions` may be an array of them), so
    both sides of a comparison receive exactly as many tokens. Every prompt differs from every other from its first
    token on (up to chance), so that no prefix cache helps.
    """
    generator = random.Random(f"{seed}/{n}/{n_tokens}")
    return [[generator.randrange(LOWEST, HIGHEST) for _ in range(n_tokens)] for _ in range(n)]
