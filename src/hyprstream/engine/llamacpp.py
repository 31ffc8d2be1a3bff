"""The one door to llama.cpp: its codes and pointers become our words here. Knows the C API; knows no scheduling.

The context keeps one stream of cells per sequence (`kv_unified = False`): a sequence then pays attention over its own cells
only. Signatures and defaults are those of `llama.h` in the pinned release.
"""

import ctypes
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as _llama
import numpy as np
from numpy.typing import NDArray

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import Alternative, EngineInfo, SamplingParams, TokenLogprob
from hyprstream.engine.backend import Interrupted, Sample, SamplerSpec, Span

log = logging.getLogger(__name__)

# The bindings are ctypes: their annotations describe neither pointers nor the integer types they take.
llama: Any = _llama
# Calls of microseconds keep the interpreter lock: having released it, they would wait for the event loop to be done with it.
_quick: Any = ctypes.PyDLL(llama._lib._name)
_quick.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
_quick.llama_get_logits.argtypes = [ctypes.c_void_p]
_quick.llama_sampler_sample.restype = ctypes.c_int32
_quick.llama_sampler_sample.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]

ABORTED = 2
"""What `llama_decode` returns when its abort callback said so."""
# llama.cpp asks between any two operations whether to go on. Asking Python would cost the interpreter lock each time; the
# length of a C string is "true" or "false" just as well, and the string's first byte is ours to set.
_ask = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

BAN = float("-inf")
MIN_BAN = -100.0
"""A bias of this or less forbids a token, as OpenAI's API has it."""

_start_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How a model is loaded. Token counts."""

    n_ctx: int = 4096
    """Context window of each slot; less if the model was trained on less."""
    n_slots: int = 8
    n_batch: int = 512
    n_threads: int = 1
    use_mmap: bool = True


class LlamaCppBackend:
    """A GGUF model in a llama.cpp context."""

    def __init__(self, path: Path, options: LlamaCppOptions) -> None:
        """Load a file that has been checked with `registry.gguf` before.

        Raises:
            BackendError: llama.cpp refuses the model, or there is no memory for its context.
        """
        _start_library()
        params = llama.llama_model_default_params()
        params.use_mmap = options.use_mmap
        self._model: Any = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise BackendError(
                f"llama.cpp cannot load {path.name}",
                hint="its log says why: HYPRSTREAM_LOG_LEVEL=debug",
            )
        self._vocab: Any = llama.llama_model_get_vocab(self._model)
        self._n_vocab = llama.llama_vocab_n_tokens(self._vocab)
        self._options = options
        self._info = self._describe()
        self._pieces: list[bytes | None] = [None] * self._n_vocab
        self._longest_piece = 0
        self._ends = frozenset(
            t for t in range(self._n_vocab) if llama.llama_vocab_is_eog(self._vocab, t)
        )
        self._samplers: list[_Sampler | None] = [None] * options.n_slots
        self._state = bytearray()
        self._wish = ctypes.create_string_buffer(2)
        """Empty, or not: then the call that is running is to stop."""
        self._context: Any = None
        self._batch: Any = llama.llama_batch_init(options.n_batch, 0, 1)
        self._rows = _BatchRows(self._batch, options.n_batch)
        self.reset()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def n_batch(self) -> int:
        return self._options.n_batch

    @property
    def longest_piece(self) -> int:
        if not self._longest_piece:
            self._longest_piece = max(len(self._full_piece(t)) for t in range(self._n_vocab))
        return self._longest_piece

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        for _ in range(2):
            buffer = (llama.llama_token * room)()
            n = llama.llama_tokenize(
                self._vocab, data, len(data), buffer, room, add_special, parse_special
            )
            if n >= 0:
                tokens = buffer[:n]
                # What a model wants after a whole text has no place after the beginning of one.
                is_closed = add_special and llama.llama_vocab_get_add_eos(self._vocab)
                return tokens[:-1] if is_closed and tokens else tokens
            room = -n
        raise BackendError(f"llama_tokenize wants {room} tokens for {len(data)} bytes")

    def piece(self, token: int) -> bytes:
        known = self._pieces[token]
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def set_sampler(self, slot: int, spec: SamplerSpec) -> None:
        old, self._samplers[slot] = self._samplers[slot], None
        if old is not None:
            old.close()
        self._samplers[slot] = _Sampler(
            self._vocab, self._n_vocab, self._info.n_ctx, self._ends, spec
        )

    def decode(self, batch: Sequence[Span]) -> list[Sample]:
        outputs = self._rows.fill(batch)
        self._batch.n_tokens = n_tokens = self._rows.n_tokens
        self._wish[0] = 0
        if code := llama.llama_decode(self._context, self._batch):
            if code == ABORTED:
                raise Interrupted
            raise BackendError(
                f"llama_decode returned {code} for {n_tokens} tokens in {len(batch)} slots"
            )
        logits = self._logits(len(outputs))
        return [self._sample(slot, row, logits[i]) for i, (slot, row) in enumerate(outputs)]

    def interrupt(self) -> None:
        self._wish[0] = 1

    def truncate(self, slot: int, n_tokens: int) -> bool:
        memory: Any = llama.llama_get_memory(self._context)
        if llama.llama_memory_seq_rm(memory, slot, n_tokens, -1):
            return True
        # Sliding windows and recurrent states cannot go back: what was there is lost.
        llama.llama_memory_seq_rm(memory, slot, -1, -1)
        return False

    def copy(self, source: int, target: int, n_tokens: int) -> bool:
        # llama_memory_seq_cp would copy the whole stream, used or not; the state of a sequence is only what it uses.
        n_bytes = llama.llama_state_seq_get_size(self._context, source)
        if n_bytes > len(self._state):
            self._state = bytearray(n_bytes)
        state = (ctypes.c_uint8 * n_bytes).from_buffer(self._state)
        written = llama.llama_state_seq_get_data(self._context, state, n_bytes, source)
        self.truncate(target, 0)
        if not written or not llama.llama_state_seq_set_data(self._context, state, written, target):
            self.truncate(target, 0)
            return False
        return self.truncate(target, n_tokens)

    def reset(self) -> None:
        self._free_context()
        params = llama.llama_context_default_params()
        params.n_ctx = self._info.n_ctx * self._options.n_slots
        params.n_seq_max = self._options.n_slots
        params.n_batch = params.n_ubatch = self._options.n_batch
        params.n_threads = params.n_threads_batch = self._options.n_threads
        params.kv_unified = False
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise BackendError(
                f"llama.cpp cannot make a context of {self._options.n_slots} slots"
                f" of {self._info.n_ctx} tokens",
                hint="fewer slots (HYPRSTREAM_ENGINE_N_SLOTS) or a smaller context take less memory",
            )
        llama.llama_set_abort_callback(self._context, _ask, self._wish)

    def close(self) -> None:
        self._free_context()
        for sampler in self._samplers:
            if sampler is not None:
                sampler.close()
        self._samplers = []
        llama.llama_batch_free(self._batch)
        llama.llama_model_free(self._model)

    def _free_context(self) -> None:
        if self._context:
            llama.llama_free(self._context)
            self._context = None

    def _logits(self, n_outputs: int) -> NDArray[np.float32]:
        """Logits of the last call's outputs, in order: float32 [n_outputs, n_vocab], valid until the next call."""
        if not n_outputs:
            return np.empty((0, self._n_vocab), np.float32)
        pointer = _quick.llama_get_logits(self._context)
        if not pointer:
            raise BackendError(f"llama.cpp has no logits for {n_outputs} outputs")
        return np.ctypeslib.as_array(pointer, (n_outputs, self._n_vocab))

    def _sample(self, slot: int, row: int, logits: NDArray[np.float32]) -> Sample:
        sampler = self._samplers[slot]
        assert sampler is not None, "a slot that samples has a sampler"
        n_logprobs = sampler.spec.n_logprobs
        if n_logprobs is None:
            return Sample(sampler.sample(self._context, row, logits))
        # Before sampling: a sampler may write to the logits it is given.
        logprobs = _log_softmax(logits)
        token = sampler.sample(self._context, row, logits)
        return Sample(token, self._logprob(token, logprobs, n_logprobs))

    def _logprob(self, token: int, logprobs: NDArray[np.float32], n_top: int) -> TokenLogprob:
        top: list[int] = []
        if n_top:
            best = np.argpartition(logprobs, -n_top)[-n_top:]
            top = [int(t) for t in best[np.argsort(-logprobs[best], kind="stable")]]
        return TokenLogprob(
            token,
            self._full_piece(token),
            float(logprobs[token]),
            tuple(Alternative(t, self._full_piece(t), float(logprobs[t])) for t in top),
        )

    def _full_piece(self, token: int) -> bytes:
        """Control tokens too have a name in a list of probabilities."""
        return self.piece(token) or self._read_piece(token, special=True)

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            n = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n
        raise BackendError(f"llama_token_to_piece wants {room} bytes for token {token}")

    def _describe(self) -> EngineInfo:
        model, vocab = self._model, self._vocab
        n_ctx_train = llama.llama_model_n_ctx_train(model)
        template: bytes | None = llama.llama_model_chat_template(model, None)
        description = ctypes.create_string_buffer(256)
        llama.llama_model_desc(model, description, len(description))
        return EngineInfo(
            n_ctx=min(self._options.n_ctx, n_ctx_train),
            n_ctx_train=n_ctx_train,
            n_vocab=self._n_vocab,
            n_slots=self._options.n_slots,
            n_params=llama.llama_model_n_params(model),
            size_bytes=llama.llama_model_size(model),
            template=template.decode("utf-8", "replace") if template else None,
            bos=self._special_text(llama.llama_vocab_bos(vocab)),
            eos=self._special_text(llama.llama_vocab_eos(vocab)),
            description=description.value.decode("utf-8", "replace"),
        )

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._read_piece(token, special=True).decode("utf-8", "replace")


class _BatchRows:
    """A `llama_batch`'s arrays as numpy views, filled without a Python loop over tokens."""

    def __init__(self, batch: Any, n_batch: int) -> None:
        as_array = np.ctypeslib.as_array
        self._tokens = as_array(batch.token, (n_batch,))
        self._positions = as_array(batch.pos, (n_batch,))
        self._is_output = as_array(batch.logits, (n_batch,))
        as_array(batch.n_seq_id, (n_batch,))[:] = 1
        # seq_id is an array of pointers, each to a row's own list of ids; ours have one id.
        self._slots = [batch.seq_id[row] for row in range(n_batch)]
        self.n_tokens = 0

    def fill(self, batch: Sequence[Span]) -> list[tuple[int, int]]:
        """Write the spans; returns slot and row of each output."""
        outputs: list[tuple[int, int]] = []
        row = 0
        for span in batch:
            end = row + len(span.tokens)
            if end - row == 1:  # most calls consist of these, and slices cost more than they do
                self._tokens[row] = span.tokens[0]
                self._positions[row] = span.start
            else:
                self._tokens[row:end] = span.tokens
                self._positions[row:end] = np.arange(span.start, span.start + end - row)
            self._is_output[row:end] = 0
            for ids in self._slots[row:end]:
                ids[0] = span.slot
            if span.is_output:
                self._is_output[end - 1] = 1
                outputs.append((span.slot, end - 1))
            row = end
        self.n_tokens = row
        return outputs


class _Sampler:
    """One slot's chain of llama.cpp samplers, in llama.cpp's own default order."""

    def __init__(
        self, vocab: Any, n_vocab: int, n_ctx: int, ends: frozenset[int], spec: SamplerSpec
    ) -> None:
        self.spec = spec
        biases = _biases(spec, ends)
        # Greedy without a bias or a penalty is the largest logit: no need to copy the vocabulary into a sampler's list.
        self._is_plain_greedy = (
            spec.params.temperature == 0
            and not biases
            and not _has_penalties(spec.params)
            and spec.params.dry_multiplier == 0
        )
        self._chain: Any = None
        if not self._is_plain_greedy:
            self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
            for sampler in _samplers(vocab, n_vocab, n_ctx, biases, spec):
                llama.llama_sampler_chain_add(self._chain, sampler)
            for token in spec.prompt:
                llama.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any, row: int, logits: NDArray[np.float32]) -> int:
        """Choose a token for batch row `row`, whose logits these are, and remember it for the penalties."""
        if self._chain is None:
            return int(logits.argmax())
        return _quick.llama_sampler_sample(self._chain, context, row)

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def _samplers(
    vocab: Any, n_vocab: int, n_ctx: int, biases: dict[int, float], spec: SamplerSpec
) -> list[Any]:
    p, seed = spec.params, spec.seed
    chain: list[Any] = []
    if biases:
        array = (llama.llama_logit_bias * len(biases))(*biases.items())
        chain.append(llama.llama_sampler_init_logit_bias(n_vocab, len(biases), array))
    if _has_penalties(p):
        chain.append(
            llama.llama_sampler_init_penalties(
                n_vocab,
                n_ctx if p.repeat_last_n < 0 else p.repeat_last_n,
                p.repeat_penalty,
                p.frequency_penalty,
                p.presence_penalty,
            )
        )
    if p.dry_multiplier > 0:
        chain.append(_dry(vocab, n_ctx, p))
    if p.temperature == 0:
        return [*chain, llama.llama_sampler_init_greedy()]
    if p.mirostat:
        chain.append(llama.llama_sampler_init_temp(p.temperature))
        chain.append(
            llama.llama_sampler_init_mirostat(n_vocab, seed, p.mirostat_tau, p.mirostat_eta, 100)
            if p.mirostat == 1
            else llama.llama_sampler_init_mirostat_v2(seed, p.mirostat_tau, p.mirostat_eta)
        )
        return chain
    return [*chain, *_truncations(p, seed), llama.llama_sampler_init_dist(seed)]


def _truncations(p: SamplingParams, seed: int) -> list[Any]:
    """Samplers that drop unlikely tokens, those that are switched on, and the temperature."""
    init = [
        (p.top_k > 0, lambda: llama.llama_sampler_init_top_k(p.top_k)),
        (p.typical_p < 1, lambda: llama.llama_sampler_init_typical(p.typical_p, 1)),
        (p.top_p < 1, lambda: llama.llama_sampler_init_top_p(p.top_p, 1)),
        (p.min_p > 0, lambda: llama.llama_sampler_init_min_p(p.min_p, 1)),
        (
            p.xtc_probability > 0,
            lambda: llama.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, 1, seed),
        ),
        (True, lambda: llama.llama_sampler_init_temp(p.temperature)),
    ]
    return [make() for is_on, make in init if is_on]


def _dry(vocab: Any, n_ctx: int, p: SamplingParams) -> Any:
    breakers = [breaker.encode() for breaker in p.dry_sequence_breakers]
    return llama.llama_sampler_init_dry(
        vocab,
        p.dry_multiplier,
        p.dry_base,
        p.dry_allowed_length,
        n_ctx if p.dry_penalty_last_n < 0 else p.dry_penalty_last_n,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )


def _has_penalties(p: SamplingParams) -> bool:
    return p.repeat_last_n != 0 and (
        p.repeat_penalty != 1 or p.frequency_penalty != 0 or p.presence_penalty != 0
    )


def _biases(spec: SamplerSpec, ends: frozenset[int]) -> dict[int, float]:
    biases = {
        token: BAN if bias <= MIN_BAN else bias for token, bias in spec.params.logit_bias if bias
    }
    return {**biases, **dict.fromkeys(ends, BAN)} if spec.ignore_eos else biases


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@llama.llama_log_callback
def _on_log(level: int, text: bytes, _: Any) -> None:
    message = text.decode("utf-8", "replace").rstrip()
    if message:
        # ggml's levels: 2 is info, 3 warning, 4 error. Its warnings are notes for developers.
        log.log(logging.ERROR if level == 4 else logging.DEBUG, "%s", message)


def _start_library() -> None:
    with _start_lock:
        llama.llama_log_set(_on_log, ctypes.c_void_p())
        llama.llama_backend_init()
