"""What is asked of an engine and what it answers. Values only; nothing here knows a library or a wire format."""

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    """The model ended its turn, or a stop string was found."""
    LENGTH = "length"
    """`max_tokens` was reached, or the context window is full."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The neutral value of each field switches it off.

    Meanings and ranges are those of llama.cpp's samplers (`llama_sampler_init_*` in `llama.h`). `temperature = 0` is
    greedy: the most likely token after biases and penalties, and nothing below it applies.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    """Tokens the three penalties look back on; -1 is the whole context, 0 switches them off."""
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    """0 is off, 1 and 2 are the two versions of the algorithm (arXiv:2007.14966)."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and what is added to its logit."""
    seed: int | None = None
    """Same seed, same request, same text. None draws one per request."""


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One request's wishes apart from its prompt."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Most tokens per choice; None means as many as the context window has room for."""
    stop: tuple[str, ...] = ()
    """Strings that end a choice and are not part of it."""
    n: int = 1
    """Number of choices per prompt; they share one prefill. Choice i samples with `seed + i`."""
    n_logprobs: int | None = None
    """None: no log probabilities. 0..20: the chosen token's, and this many alternatives."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """Prompts and what to do with each, as they cross the boundary to an engine.

    However many there are, a job is one place in the queue. The choices of prompt i have the indices i·n .. i·n + n - 1.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    """Text to encode (special tokens are recognised, BOS is added once), or token ids taken as they are."""
    params: GenerationParams = field(default_factory=GenerationParams)
    owner: str = ""
    """Who it is computed for; an engine that is busy serves owners in turn."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One token the model could have chosen, and the natural logarithm of its probability."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token's log probability under the model's own distribution (before sampling parameters)."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[Alternative, ...] = ()
    """The most likely tokens, best first."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall clock of one choice, in milliseconds."""

    queued_ms: float = 0.0
    """From submission until a slot was leased."""
    prompt_ms: float = 0.0
    """From the lease until the first token."""
    predicted_ms: float = 0.0
    """From the first token until the last."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one choice or, summed, of one request. `cached_tokens` is the part of the prompt not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One step of one choice. Text is always whole characters and never part of a stop string.

    A step can carry no text: the token ends inside a character, or may begin a stop string. `logprobs` are those of the
    tokens whose text this event completes. The last event of a choice has `finish`, `usage` and `timings`.
    """

    index: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded model is. Token counts; `template` is the model's own Jinja source."""

    n_ctx: int
    """Context window of one sequence, in tokens."""
    n_ctx_train: int
    n_vocab: int
    n_slots: int
    n_params: int
    size_bytes: int
    template: str | None
    bos: str
    """Text of the beginning-of-sequence token; empty if there is none."""
    eos: str
    description: str


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment of one engine. Counters only grow."""

    n_slots: int
    n_slots_busy: int
    n_waiting: int
    n_requests: int
    n_prompt_tokens: int
    n_completion_tokens: int
    n_cached_tokens: int
    n_steps: int
    n_cancelled: int
    n_failures: int
    """Times the backend failed and was rebuilt."""
