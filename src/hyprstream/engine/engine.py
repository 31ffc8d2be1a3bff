"""The engine: token ids in, token ids out. Knows slots, batches, a backend. Knows no text, users, threads or HTTP."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import FinishReason, TokenLogprob
from hyprstream.engine.backend import Backend, Interrupted, SamplerSpec
from hyprstream.engine.batch import Batch
from hyprstream.engine.costs import CostModel
from hyprstream.engine.scheduler import Scheduler
from hyprstream.engine.sequence import Sequence
from hyprstream.engine.slots import Lease, Slots


@dataclass(frozen=True, slots=True)
class Commit:
    """One new token of one sequence."""

    sequence: Sequence
    token: int
    is_end: bool
    """Whether it is an end-of-turn token: it ends the text and is no part of it."""
    logprob: TokenLogprob | None


class Engine:
    """Steps a backend. `clock` gives seconds; it is used to learn what batches cost."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        info = backend.info
        self.backend = backend
        self.scheduler = Scheduler(
            Slots(info.n_slots), CostModel(), n_batch=backend.n_batch, n_ctx=info.n_ctx
        )
        self._clock = clock
        self.n_steps = 0
        self._computing: Batch | None = None

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; `step` will begin it when a slot is free."""
        self.scheduler.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence; its slot is free at once."""
        self.scheduler.remove(sequence)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Finish a sequence for a reason outside the engine's knowledge."""
        self.scheduler.end(sequence, reason)

    def interrupt(self, leaving: Collection[Sequence]) -> None:
        """Stop the call that is running if it computes for nobody else. Any thread may call this.

        It only saves time: the sequences are not removed, and if another call has begun meanwhile that one is repeated.
        """
        batch = self._computing
        if batch is not None and all(sequence in leaving for sequence, _ in batch.parts):
            self.backend.interrupt()

    def step(self) -> list[Commit]:
        """Admit who waits, compute one batch, and return the tokens it gave; none if it was interrupted.

        Raises:
            BackendError: the running sequences are lost; call `recover`.
        """
        for sequence, lease in self.scheduler.admit():
            self._begin(sequence, lease)
        batch = self.scheduler.schedule()
        if batch is None:
            return []
        spans = batch.spans
        started = self._clock()
        self._computing = batch
        try:
            samples = self.backend.decode(spans)
        except Interrupted:
            self._roll_back(batch)
            return []
        finally:
            self._computing = None
        self.scheduler.observe(batch, 1000 * (self._clock() - started))
        outputs = [s for (s, _), span in zip(batch.parts, spans, strict=True) if span.is_output]
        commits = [
            Commit(sequence, sample.token, self._ends(sequence, sample.token), sample.logprob)
            for sequence, sample in zip(outputs, samples, strict=True)
        ]
        self.scheduler.commit(batch, {c.sequence: (c.token, c.is_end) for c in commits})
        self.n_steps += 1
        return commits

    def recover(self) -> list[Sequence]:
        """After a failed step: drop what was running and bring the backend back. Returns the sequences lost.

        Raises:
            BackendError: it cannot be brought back.
        """
        lost = self.scheduler.lose_running()
        self.backend.reset()
        return lost

    def _begin(self, sequence: Sequence, lease: Lease) -> None:
        sequence.leased = self._clock()
        n = lease.n_reused
        if lease.source == lease.slot:
            is_kept = self.backend.truncate(lease.slot, n)
        else:
            is_kept = self.backend.copy(lease.source, lease.slot, n)
        sequence.n_cached = sequence.n_computed = n if is_kept else 0
        self.backend.set_sampler(
            lease.slot,
            SamplerSpec(
                sequence.params.sampling,
                sequence.seed,
                sequence.params.ignore_eos,
                sequence.params.n_logprobs,
                sequence.prompt,
            ),
        )

    def _roll_back(self, batch: Batch) -> None:
        for sequence, _ in batch.parts:
            assert sequence.slot is not None, "a sequence in a batch holds a slot"
            is_kept = self.backend.truncate(sequence.slot, sequence.n_computed)
            if not is_kept and not sequence.is_prefilling:
                raise BackendError("an interrupted answer cannot be continued by this model")
            if not is_kept:
                sequence.n_computed = sequence.n_cached = 0

    def _ends(self, sequence: Sequence, token: int) -> bool:
        return not sequence.params.ignore_eos and self.backend.is_end(token)
