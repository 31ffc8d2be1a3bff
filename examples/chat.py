"""A conversation with a running server, through the official OpenAI client. One question a line; Ctrl-D ends.

pip install openai
hyprstream server --model smollm2
python examples/chat.py [URL]
"""
# ruff: noqa: T201

import os
import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
# The client insists on a key; a server without one takes any.
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("HYPRSTREAM_API_KEY", "none"))

messages = []
for question in sys.stdin:
    messages.append({"role": "user", "content": question.strip()})
    answer = ""
    for chunk in client.chat.completions.create(
        model="smollm2", messages=messages, temperature=0, max_tokens=200, stream=True
    ):
        piece = chunk.choices[0].delta.content or ""
        print(piece, end="", flush=True)
        answer += piece
    print()
    messages.append({"role": "assistant", "content": answer})
