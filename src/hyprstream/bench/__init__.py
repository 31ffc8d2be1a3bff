"""Measures any OpenAI-compatible server, beside peers in the same run. Knows HTTP and statistics; knows no engine."""
