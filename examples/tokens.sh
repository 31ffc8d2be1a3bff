#!/bin/sh
# A guest who may ask one model and nothing else: a rule, a token limited to it, what it opens, and its end.
#
#   hyprstream server --model smollm2
#   sh examples/tokens.sh [URL]
set -eu

url=${1:-http://127.0.0.1:8080}
guest=guest-$$

status() { # TOKEN METHOD PATH [BODY]: the HTTP status of a request
    curl --silent --output /dev/null --write-out '%{http_code}' --request "$2" \
        --header "Authorization: Bearer $1" ${4:+--data "$4"} "$url$3"
}

ask() { # TOKEN: the status of a question
    status "$1" POST /v1/chat/completions \
        '{"model": "smollm2", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}'
}

token=$(hyprstream policy token create --user "$guest" --name example --expires 1h --scope "infer:model:smollm2")
echo "without a rule: $(ask "$token")"

# The policy is a text under version control: change the draft, look at it, apply it.
rule="p, token:$guest, http, model:smollm2, infer, allow"
EDITOR="sh -c 'echo \"$rule\" >> \"\$0\"'" hyprstream policy edit
hyprstream policy diff
hyprstream policy apply -m "let $guest ask smollm2"
sleep 1 # a running server obeys within a second
echo "with a rule: $(ask "$token")"
echo "the list of models: $(status "$token" GET /v1/models)"

hyprstream policy token revoke example --user "$guest"
sleep 1
echo "revoked: $(ask "$token")"
hyprstream policy rollback --yes
