"""Token pieces to text: whole characters only, and nothing of a stop string. Knows bytes and strings; knows no tokens' ids."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from hyprstream.core.generation import TokenLogprob


@dataclass(frozen=True, slots=True)
class Text:
    """What one piece brought to light."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    is_stopped: bool


class TextAssembler:
    """Assembles one choice's text.

    A character whose bytes come in several tokens appears when it is complete. Text that may be the beginning of a stop
    string is held back until that is decided. The stop string that is complete first wins, as if the text had come one
    character at a time; it and what follows are dropped.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        # Bytes that are not UTF-8 become U+FFFD; an unfinished character at the very end is dropped, not replaced.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._n_shown = 0
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        """Those not given out yet, each with the position in the text where its token begins."""

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> Text:
        """Add a token's bytes; returns what may be shown now."""
        if logprob is not None:
            self._logprobs.append((self._n_shown + len(self._held), logprob))
        self._held += self._decoder.decode(piece)
        if not self._stops:
            return self._show(len(self._held))
        found = self._find_stop()
        if found is None:
            return self._show(len(self._held) - self._n_undecided())
        shown = self._show(found)
        self._held, self._logprobs = "", []
        return Text(shown.text, shown.logprobs, is_stopped=True)

    def flush(self) -> Text:
        """The choice has ended: everything held back may be shown."""
        shown = self._show(len(self._held))
        rest = tuple(logprob for _, logprob in self._logprobs)
        self._logprobs = []
        return Text(shown.text, shown.logprobs + rest, is_stopped=False)

    def _show(self, n: int) -> Text:
        text, self._held = self._held[:n], self._held[n:]
        self._n_shown += n
        logprobs: tuple[TokenLogprob, ...] = ()
        if text and self._logprobs:
            logprobs = tuple(lp for begin, lp in self._logprobs if begin < self._n_shown)
            self._logprobs = [item for item in self._logprobs if item[0] >= self._n_shown]
        return Text(text, logprobs, is_stopped=False)

    def _find_stop(self) -> int | None:
        """Where the stop string begins that is complete first."""
        matches = [
            (begin + len(stop), begin)
            for stop in self._stops
            if (begin := self._held.find(stop)) >= 0
        ]
        return min(matches)[1] if matches else None

    def _n_undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-n:]
            if any(stop.startswith(end) for stop in self._stops):
                return n
        return 0
