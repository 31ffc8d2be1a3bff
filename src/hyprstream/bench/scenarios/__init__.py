"""One file per question. Each has `QUESTION` and `run(bench)`, which answers it with a Result."""
