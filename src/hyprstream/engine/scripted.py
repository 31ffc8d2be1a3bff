"""A backend without weights, for tests: deterministic, quick, and strict about what it is given.

Its vocabulary is the 256 bytes, then BOS and EOS. It checks what a real one would only get subtly wrong: positions that do
not follow on what a slot holds, slots and batches out of range.
"""

import hashlib
from collections.abc import Callable, Sequence

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import Alternative, EngineInfo, TokenLogprob
from hyprstream.engine.backend import Interrupted, Sample, SamplerSpec, Span

BOS, EOS = 256, 257
N_VOCAB = 258

Reply = Callable[[str], str]


class ScriptedBackend:
    """Continues each prompt with `reply(prompt)` and then ends, or without one forever with letters.

    The letters are a hash of the slot's whole contents and the seed, so one wrong, missing or misplaced token in a slot
    changes everything that follows.
    """

    def __init__(
        self,
        reply: Reply | None = None,
        *,
        n_slots: int = 4,
        n_ctx: int = 256,
        n_batch: int = 64,
        can_truncate: bool = True,
        can_copy: bool = True,
        template: str | None = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    ) -> None:
        self._reply = reply
        self._can_truncate = can_truncate
        self._can_copy = can_copy
        self._n_batch = n_batch
        self._info = EngineInfo(
            n_ctx=n_ctx,
            n_ctx_train=n_ctx,
            n_vocab=N_VOCAB,
            n_slots=n_slots,
            n_params=0,
            size_bytes=0,
            template=template,
            bos="<s>",
            eos="</s>",
            description="scripted",
        )
        self.is_closed = False
        self.n_decoded = 0
        self.fail_next: Exception | None = None
        """What the next decode raises instead of computing."""
        self.on_decode: Callable[[], None] = lambda: None
        """Called in the middle of each decode call."""
        self._is_interrupted = False
        self._held: list[list[int]] = [[] for _ in range(n_slots)]
        self._samplers: list[SamplerSpec | None] = [None] * n_slots

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def n_batch(self) -> int:
        return self._n_batch

    @property
    def longest_piece(self) -> int:
        return 1

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = [BOS] if add_special else []
        if parse_special and text.startswith(self._info.bos):
            tokens, text = [*tokens, BOS], text.removeprefix(self._info.bos)
        return tokens + list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == EOS

    def set_sampler(self, slot: int, spec: SamplerSpec) -> None:
        self._samplers[slot] = spec

    def decode(self, batch: Sequence[Span]) -> list[Sample]:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            for held in self._held:
                held[:] = [-1]  # nothing is certain any more
            raise error
        self._is_interrupted = False
        self.on_decode()
        if self._is_interrupted:
            for span in batch:
                self._held[span.slot].extend(span.tokens[:1])  # it had begun
            raise Interrupted
        n_tokens = sum(len(span.tokens) for span in batch)
        assert 0 < n_tokens <= self._n_batch, f"a batch of {n_tokens} tokens"
        assert len({span.slot for span in batch}) == len(batch), "a slot is in a batch once"
        self.n_decoded += n_tokens
        return [sample for span in batch if (sample := self._extend(span)) is not None]

    def interrupt(self) -> None:
        self._is_interrupted = True

    def truncate(self, slot: int, n_tokens: int) -> bool:
        if n_tokens and not self._can_truncate:
            self._held[slot] = []
            return False
        assert n_tokens <= len(self._held[slot]), "nothing can be kept that is not there"
        del self._held[slot][n_tokens:]
        return True

    def copy(self, source: int, target: int, n_tokens: int) -> bool:
        assert n_tokens <= len(self._held[source]), "nothing can be copied that is not there"
        self._held[target] = self._held[source][:n_tokens] if self._can_copy else []
        return self._can_copy

    def reset(self) -> None:
        self._held = [[] for _ in self._held]

    def close(self) -> None:
        self.is_closed = True

    def _extend(self, span: Span) -> Sample | None:
        held = self._held[span.slot]
        if span.start != len(held):
            raise BackendError(f"slot {span.slot} holds {len(held)} tokens, not {span.start}")
        held.extend(span.tokens)
        assert len(held) <= self._info.n_ctx, f"slot {span.slot} holds {len(held)} tokens"
        return self._sample(span.slot) if span.is_output else None

    def _sample(self, slot: int) -> Sample:
        spec, held = self._samplers[slot], self._held[slot]
        assert spec is not None, "a slot that samples has a sampler"
        token = self._next(spec, held)
        if spec.n_logprobs is None:
            return Sample(token)
        top = tuple(Alternative(token, self.piece(token), -0.5) for _ in range(spec.n_logprobs))
        return Sample(token, TokenLogprob(token, self.piece(token), -0.5, top))

    def _next(self, spec: SamplerSpec, held: list[int]) -> int:
        if self._reply is not None:
            prompt = b"".join(map(self.piece, spec.prompt)).decode("utf-8", "replace")
            script = [*self._reply(prompt).encode(), EOS]
            return script[min(len(held) - len(spec.prompt), len(script) - 1)]
        seed = spec.seed if spec.params.temperature > 0 else 0
        digest = hashlib.blake2b(repr((seed, held)).encode(), digest_size=8).digest()
        return ord("a") + int.from_bytes(digest) % 26
