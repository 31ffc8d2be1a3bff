#!/bin/sh
# What a running server can do, with nothing but curl: list its models, answer at once, answer as a stream.
#
#   hyprstream server --model smollm2
#   sh examples/curl.sh [URL]
set -eu

url=${1:-http://127.0.0.1:8080}
question='{"role": "user", "content": "What is the capital of France? Answer in one sentence."}'

ask() { # PATH, and further arguments of curl
    path=$1
    shift
    # A server without a key takes any.
    curl --silent --show-error --fail-with-body --header "Authorization: Bearer ${HYPRSTREAM_API_KEY:-none}" "$@" "$url$path"
    echo
}

ask /v1/models
ask /v1/chat/completions --data "{\"model\": \"smollm2\", \"messages\": [$question], \"temperature\": 0}"
ask /v1/chat/completions --no-buffer --data "{\"model\": \"smollm2\", \"messages\": [$question], \"temperature\": 0, \"stream\": true}"
