#!/bin/sh
# A model with two versions: a branch, a change in it, what differs, and back to one.
#
#   hyprstream pull smollm2
#   sh examples/versions.sh
set -eu

hyprstream tag smollm2 before-$$
hyprstream branch smollm2 try-$$
files=$(hyprstream worktree info smollm2 try-$$ --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])')

# A worktree is a directory like any other; the weights in it are a link and take no space.
echo "Answers in the style of a telegram." > "$files/NOTES.md"
hyprstream status smollm2:try-$$
hyprstream commit smollm2:try-$$ -m "Say what this branch is for"
hyprstream log smollm2:try-$$
hyprstream diff smollm2:before-$$ smollm2:try-$$

hyprstream merge smollm2 try-$$
hyprstream branch smollm2 try-$$ --delete
hyprstream list
