#!/usr/bin/env bash
# The first five minutes of a new user: install, make a project, see it run, change a line,
# see the difference, open the page. Each message on the way has to tell the next step.
#   tests/first-five-minutes.sh [BINARY]     without one it is installed from these sources
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

fail() { echo "the first five minutes: $*" >&2; exit 1; }
# tells FILE TEXT: waits until a file has a text; what was built may take a while.
tells() {
  for _ in $(seq 6000); do
    grep -qF -- "$2" "$1" && return
    [ -z "$server" ] || kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  fail "expected $2, found: $(cat "$1")"
}
# page PATH: what the server answers.
page() {
  exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
  printf 'GET %s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n' "$1" "$address" >&3
  cat <&3
}

if [ $# -gt 0 ]; then
  mkdir "$work/bin" && ln -s "$(realpath "$1")" "$work/bin/dacapo"
else
  (cd "$root" && cargo install --quiet --locked --path host --root "$work" --target-dir target)
fi
export PATH=$work/bin:$PATH
unset DACAPO_DATA
# Its dependencies are compiled once, not at each run of this script.
export CARGO_TARGET_DIR=$root/target/tmp/cli-new-target

dacapo --help >"$work/help"
tells "$work/help" "new "

cd "$work"
dacapo new order-desk >"$work/new"
tells "$work/new" "cd order-desk"
tells "$work/new" "dacapo dev"

cd order-desk
dacapo dev --listen 127.0.0.1:0 >"$work/dev" 2>"$work/dev.err" &
server=$!
tells "$work/dev" "start it at http://"
tells "$work/dev" 'dacapo start order_desk --input'
tells "$work/dev" "change a file and save"
address=$(sed -n 's#^listening on http://##p' "$work/dev")

dacapo start order_desk --input @input.json --id first >/dev/null 2>"$work/start"
tells "$work/start" "dacapo history first --follow"
tells "$work/start" "http://$address/ui/instances/first"
dacapo history first --follow >"$work/history"
tells "$work/history" "completed"
dacapo show first >"$work/show"
tells "$work/show" "Hello, "

# A line is changed: what runs from now on is the new code.
sed -i 's/Hello, /Welcome, /' orchestration/src/lib.rs
tells "$work/dev" "something changed, building"
for _ in $(seq 6000); do
  [ "$(grep -c '^uploaded order-desk@' "$work/dev")" -ge 2 ] && break
  kill -0 "$server" || fail "it ended: $(cat "$work/dev" "$work/dev.err")"
  sleep 0.1
done
dacapo start order_desk --input @input.json --id second --wait >"$work/second" 2>/dev/null
tells "$work/second" "Welcome, "

# A mistake is told, and what to do about it.
sed -i 's/Welcome, /Welcome, {/' orchestration/src/lib.rs
tells "$work/dev" "nothing was uploaded; change it and save"
dacapo start order_desk --input @input.json --id third --wait >"$work/third" 2>/dev/null
tells "$work/third" "Welcome, "

page / >"$work/page"
tells "$work/page" "second"
page /ui/instances/second >"$work/page"
tells "$work/page" "Welcome, "

# It ends when it is told to, and everything is still there.
kill -INT "$server"
wait "$server" || fail "it did not end well: $(cat "$work/dev.err")"
server=
dacapo list >"$work/list"
tells "$work/list" "third"
echo "the first five minutes went well"
