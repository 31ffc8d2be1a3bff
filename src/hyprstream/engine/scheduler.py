"""Who computes what next. Decides; knows no backend, no I/O, no clock and no threads.

A round is one token for every sequence that decodes, then one chunk of prompt tokens for those that prefill. The chunk
is as long as the round's decoding allows: a prompt that arrives never makes many others wait for more than three times
what they waited before, and gets two thirds of the machine meanwhile.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from hyprstream.core.generation import FinishReason
from hyprstream.engine.batch import Batch
from hyprstream.engine.costs import CostModel
from hyprstream.engine.sequence import Sequence
from hyprstream.engine.slots import Lease, Slots

PREFILL_SHARE = 1.8
"""Time of a prompt chunk over the time of the decoding round before it."""
MIN_PREFILL_MS = 40.0
"""Least time of a chunk: where few decode, a round is short, and chunks as short would waste the matrix kernels."""
MAX_PREFILL_MS = 80.0
"""Time of a chunk when nobody decodes, and the most of any of a long prompt: so long a client that leaves keeps its slot."""
SHORT_PREFILL_MS = 100.0
"""A prompt that takes no longer than this is computed in one chunk."""
MIN_CHUNK = 8
DEEP = 512
"""Tokens of depth from which attention is a good part of a prompt token's cost ..."""
DEEP_CHUNK = 64
"""... and the tokens from which llama.cpp computes attention by tiles, at half the cost: less only where others wait."""
MIN_PADDING_MS = 1.0
"""Padding that costs less than this is not worth another decode call."""
GRAIN = 4
"""ggml's matrix kernels take rows by four."""


class Scheduler:
    """Sequences wait, run while they hold a slot, and leave when they are finished or removed.

    Owners are given slots in turn, each for its oldest sequence: however many one of them has waiting, another's next one
    lets at most one of those by.
    """

    def __init__(self, slots: Slots, costs: CostModel, *, n_batch: int, n_ctx: int) -> None:
        self.slots = slots
        self.costs = costs
        self._n_batch = n_batch
        self._n_ctx = n_ctx
        self.waiting: deque[Sequence] = deque()
        """In order of arrival."""
        self._turns: OrderedDict[str, None] = OrderedDict()
        """The owners of those that wait; the first is served next."""
        self.running: list[Sequence] = []
        self._round: deque[list[Sequence]] = deque()
        self._round_ms = 0.0
        self._last_round_ms = 0.0
        self._prefill_is_next = False
        self._passed_over: set[Sequence] = set()
        """Prompts that got no part of the last chunk."""

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)
        self._turns.setdefault(sequence.owner)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence wherever it is; its slot is free at once."""
        sequence.is_aborted = True
        self._forget(sequence)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Finish a sequence for a reason only the caller knows, such as a stop string."""
        sequence.finish = reason
        self._forget(sequence)

    def admit(self) -> Iterator[tuple[Sequence, Lease]]:
        """Lease slots to waiting sequences. The caller sets `slot` and `n_computed` before it goes on."""
        while self.slots.has_free and (sequence := self._next()) is not None:
            self._turns.move_to_end(sequence.owner)
            self._unqueue(sequence)
            lease = self.slots.lease(sequence)
            sequence.slot = lease.slot
            self.running.append(sequence)
            yield sequence, lease

    def schedule(self) -> Batch | None:
        """The next decode call, or None if nothing runs."""
        decoding = [s for s in self.running if not s.is_prefilling]
        prefilling = [s for s in self.running if s.is_prefilling]
        if prefilling and (self._prefill_is_next or not decoding):
            self._prefill_is_next = False
            return self._prefill(prefilling, shares=bool(decoding))
        if not self._round and decoding:
            self._round.extend(self._groups(sorted(decoding, key=_slot)))
        if not self._round:
            return None
        group = self._round.popleft()
        self._prefill_is_next = not self._round
        return Batch.decode(group)

    def observe(self, batch: Batch, ms: float) -> None:
        """Learn from how long a batch took. Call it before `commit`."""
        if batch.kind == "prefill":
            self.costs.observe_prefill(batch.n_tokens, batch.depth, ms)
            return
        self.costs.observe_decode(len(batch.parts), batch.depth, ms)
        self._round_ms += ms
        if not self._round:
            self._last_round_ms, self._round_ms = self._round_ms, 0.0

    def commit(self, batch: Batch, tokens: dict[Sequence, tuple[int, bool]]) -> None:
        """Take over what a batch computed: for each output the sampled token, and whether it ends the turn."""
        for sequence, n in batch.parts:
            sequence.n_computed += n
            if sequence in tokens:
                token, is_end = tokens[sequence]
                sequence.tokens.append(token)
                sequence.finish = self._finish(sequence, is_end=is_end)
                if sequence.finish is not None:
                    self._forget(sequence)

    def lose_running(self) -> list[Sequence]:
        """Drop every running sequence: the backend lost what it held."""
        lost, self.running = self.running, []
        for sequence in lost:
            sequence.is_aborted, sequence.slot = True, None
        self._round.clear()
        self._passed_over.clear()
        self.slots.forget()
        return lost

    def check_integrity(self) -> None:
        """Audit: every running sequence holds one slot, every busy slot has one running holder."""
        held = [s.slot for s in self.running]
        assert len(set(held)) == len(held), f"two sequences share a slot: {held}"
        assert self.slots.n_busy == len(held), f"{self.slots.n_busy} busy slots, {len(held)} held"
        for sequence in self.running:
            assert sequence.slot is not None, "a running sequence always holds a slot"
            assert self.slots.holder(sequence.slot) is sequence, "a slot knows its holder"
            assert not sequence.is_over, "a finished sequence runs no more"
            assert sequence.n_pending > 0, "a running sequence has something to compute"
            assert sequence.n_tokens <= self._n_ctx, "no sequence outgrows its slot"
        assert set(self._turns) == {s.owner for s in self.waiting}, "who waits has a turn"
        for group in self._round:
            assert all(s in self.running for s in group), "a round holds running sequences only"

    def _finish(self, sequence: Sequence, *, is_end: bool) -> FinishReason | None:
        if is_end and not sequence.params.ignore_eos:
            return FinishReason.STOP
        if sequence.n_generated >= sequence.max_tokens or sequence.n_tokens >= self._n_ctx:
            return FinishReason.LENGTH
        return None

    def _forget(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self.slots.release(sequence)
            self.running.remove(sequence)
            sequence.slot = None
            self._round = deque(
                g for group in self._round if (g := [s for s in group if s is not sequence])
            )
        elif sequence in self.waiting:
            self._unqueue(sequence)

    def _next(self) -> Sequence | None:
        """The oldest that is ready, of the owner whose turn it is."""
        oldest: dict[str, Sequence] = {}
        for sequence in self.waiting:
            if sequence.owner not in oldest and sequence.is_ready:
                oldest[sequence.owner] = sequence
        return next((oldest[owner] for owner in self._turns if owner in oldest), None)

    def _unqueue(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        if all(other.owner != sequence.owner for other in self.waiting):
            del self._turns[sequence.owner]

    def _prefill(self, prefilling: list[Sequence], *, shares: bool) -> Batch:
        ms = MAX_PREFILL_MS
        if shares:
            ms = min(max(PREFILL_SHARE * self._last_round_ms, MIN_PREFILL_MS), ms)
        room, parts = self._n_batch, list[tuple[Sequence, int]]()
        for sequence in sorted(prefilling, key=self._turn):
            cost = self.costs.prefill_ms(sequence.n_computed)
            n = max(_whole(ms / cost), 0 if parts else _least(sequence, shares))
            if not parts and self._is_short(sequence):
                # Two chunks for one short prompt cost another round, and its stream starts a round later.
                n = sequence.n_pending
            if n := min(n, sequence.n_pending, room):
                parts.append((sequence, n))
                room, ms = room - n, max(ms - n * cost, 0)
        served = {sequence for sequence, _ in parts}
        self._passed_over = {sequence for sequence in prefilling if sequence not in served}
        return Batch("prefill", tuple(parts))

    def _turn(self, sequence: Sequence) -> tuple[bool, bool]:
        """Whoever got nothing last time comes first, then short prompts, then the others; each in order of arrival.

        So a short prompt overtakes a long one, and no number of short ones can hold a long one up.
        """
        return sequence not in self._passed_over, not self._is_short(sequence)

    def _is_short(self, sequence: Sequence) -> bool:
        """Whether one chunk can complete the prompt."""
        cost = self.costs.prefill_ms(sequence.n_computed)
        return sequence.n_pending * cost <= SHORT_PREFILL_MS

    def _groups(self, decoding: list[Sequence]) -> list[list[Sequence]]:
        """Split into the runs of neighbours that are cheapest to compute one after another."""
        depths = [s.n_computed for s in decoding]
        padding = len(depths) * max(depths) - sum(depths)
        if padding * self.costs.attention_ms < MIN_PADDING_MS:
            return [decoding]
        # best[i]: the cheapest way to compute the first i, by dynamic programming over where the last run starts.
        best: list[tuple[float, list[list[Sequence]]]] = [(0.0, [])]
        for end in range(1, len(decoding) + 1):
            options = [
                (
                    best[start][0] + self.costs.decode_ms(end - start, max(depths[start:end])),
                    [*best[start][1], decoding[start:end]],
                )
                for start in range(end)
            ]
            best.append(min(options, key=lambda option: option[0]))
        return best[-1][1]


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None, "a running sequence always holds a slot"
    return sequence.slot


def _least(sequence: Sequence, shares: bool) -> int:
    return DEEP_CHUNK if sequence.n_computed >= DEEP and not shares else MIN_CHUNK


def _whole(n: float) -> int:
    return int(n) // GRAIN * GRAIN
