"""A bare `llama_decode` loop with greedy argmax: what a server would reach if HTTP, scheduling and sampling were free.

Knows llama.cpp's C API and nothing of hyprstream. Driven over its own standard streams, a JSON object per line:

    {"prompts": [[token, ...], ...], "n_tokens": n}
    {"ttft": s, "seconds": s, "tokens": [[token, ...], ...], "texts": ["...", ...]}

`ttft` is from the start of the first prefill to the last prompt's first token, `seconds` is the time of the n - 1 decode
calls after it, which carry one token of every prompt. The first line it writes, `{"ready": true}`, says the model is loaded.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np


class RawLoop:
    """One model, one context, as many sequences as there are slots."""

    def __init__(
        self, path: str, *, n_ctx: int, n_slots: int, n_threads: int, n_batch: int
    ) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not model:
            raise SystemExit(f"{path} is not a model llama.cpp can load")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx * n_slots
        params.n_seq_max = n_slots
        params.n_batch = n_batch
        params.kv_unified = False
        params.n_threads = params.n_threads_batch = n_threads
        context = llama_cpp.llama_init_from_model(model, params)
        if not context:
            raise SystemExit(f"no memory for {n_slots} slots of {n_ctx} tokens")
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._n_batch = n_batch
        self._batch = llama_cpp.llama_batch_init(n_batch, 0, 1)
        self._ends = [
            token
            for token in range(self._n_vocab)
            if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        ]

    def run(self, prompts: Sequence[Sequence[int]], n_tokens: int) -> dict[str, Any]:
        """Prefill the prompts one after the other, then decode all of them together."""
        llama_cpp.llama_memory_clear(self._memory, False)
        start = time.perf_counter()
        last = [self._prefill(slot, prompt) for slot, prompt in enumerate(prompts)]
        prefilled = time.perf_counter()
        outputs = [[token] for token in last]
        for n in range(n_tokens - 1):
            items = [
                (token, len(prompt) + n, slot, True)
                for slot, (prompt, token) in enumerate(zip(prompts, last, strict=True))
            ]
            last = self._decode(items)
            for output, token in zip(outputs, last, strict=True):
                output.append(token)
        return {
            "ttft": prefilled - start,
            "seconds": time.perf_counter() - prefilled,
            "tokens": outputs,
            "texts": [self._text(output) for output in outputs],
        }

    def _prefill(self, slot: int, prompt: Sequence[int]) -> int:
        end = len(prompt) - 1
        sampled: list[int] = []
        for start in range(0, len(prompt), self._n_batch):
            chunk = prompt[start : start + self._n_batch]
            sampled = self._decode(
                [(token, start + i, slot, start + i == end) for i, token in enumerate(chunk)]
            )
        return sampled[0]

    def _decode(self, items: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """One call over (token, position, slot, whether its logits are wanted); the likeliest token for each wanted."""
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, position, slot, is_output) in enumerate(items):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, slot
            batch.logits[i] = is_output
        if code := llama_cpp.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode returned {code} for {len(items)} tokens")
        return [self._argmax(i) for i, item in enumerate(items) if item[3]]

    def _argmax(self, i: int) -> int:
        row = llama_cpp.llama_get_logits_ith(self._context, i)
        logits = np.ctypeslib.as_array(row, shape=(self._n_vocab,))
        # Servers were asked to ignore the end of a text, which they do by never choosing its token.
        logits[self._ends] = -np.inf
        return int(logits.argmax())

    def _text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(0, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n-ctx", type=int, default=4608, help="of one slot, in tokens")
    parser.add_argument("--n-slots", type=int, default=8)
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--n-batch", type=int, default=512)
    options = vars(parser.parse_args())

    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    loop = RawLoop(options.pop("model"), **options)
    write({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        write(loop.run(request["prompts"], request["n_tokens"]))


def write(message: dict[str, Any]) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
