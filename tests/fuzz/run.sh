#!/usr/bin/env bash
# Asks a real server everything that its own description allows, and much that it does not:
# no answer may be a 5xx, and every answer must be one that the description knows.
#   tests/fuzz/run.sh [BINARY]   seconds: DACAPO_FUZZ_SECONDS (30); seed: DACAPO_SEED
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dacapo=$(realpath "${1:-$root/target/release/dacapo}")
venv=$root/target/schemathesis
seed=${DACAPO_SEED:-$((RANDOM * 32768 + RANDOM))}
seconds=${DACAPO_FUZZ_SECONDS:-30}
# They are no settings of the server, which refuses those that it does not know.
unset DACAPO_SEED DACAPO_FUZZ_SECONDS

if [ ! -x "$venv/bin/schemathesis" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis>=4.32,<5"
fi

work=$(mktemp -d)
export DACAPO_DATA=$work/data
: >"$work/out"
"$dacapo" serve --listen 127.0.0.1:0 >"$work/out" 2>"$work/err" &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
until address=$(sed -n 's/^listening on //p' "$work/out") && [ -n "$address" ]; do
  kill -0 $server || { cat "$work/err" >&2; exit 1; }
  sleep 0.1
done

input='{"subject":"A loom","amount":250000,"patience":86400}'
"$dacapo" upload "$root/examples/approval" >/dev/null
for id in a1 a2 a3 a4; do "$dacapo" start approval --id $id --input "$input" >/dev/null 2>&1; done
"$dacapo" terminate a4 >/dev/null
"$dacapo" schedule set nightly approval --cron "0 2 * * *" --input "$input" >/dev/null

# What it keeps for itself goes with the rest.
cd "$work"
echo "fuzzing $address with DACAPO_SEED=$seed"
# The stream of changes does not end, so there is no answer to look at. One worker: threads
# of the tool's own get in each other's way, and then it reports itself.
SCHEMATHESIS_HOOKS=$here/hooks.py "$venv/bin/schemathesis" --config-file "$here/schemathesis.toml" \
  run "$address/api/v1/openapi.json" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --exclude-path /api/v1/changes --phases coverage,fuzzing --workers 1 --request-timeout 20 \
  --max-time "$seconds" --seed "$seed" --warnings off

# It is still there, and what it keeps is sound.
"$dacapo" verify >/dev/null
kill -0 $server
if grep -E ' (ERROR|panicked)' "$work/err"; then
  echo "the server complained; DACAPO_SEED=$seed" >&2
  exit 1
fi
