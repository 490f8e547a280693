#!/usr/bin/env bash
# Builds the command as it is released, for this machine's platform: optimised by a profile of
# its own work (PGO), which makes a step about a fifth cheaper than `cargo build --release`
# does. It is compiled twice, and runs the benchmark in between; the result is
# target/released/dacapo.
#
# Needs rustup, for the component llvm-tools of the toolchain. Flags for the compiler that are
# set elsewhere do not count here.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/target/released
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools || true
[ -x "$profdata" ] || { echo "there is no llvm-profdata at $profdata; add it with: rustup component add llvm-tools" >&2; exit 1; }

trap 'rm -rf "$folder/data" "$folder/counts"' EXIT
step() { echo "== $* ($(date +%T))"; }

# With a target, the flag is for what is run there, and not for what runs while compiling.
build() {
  CARGO_ENCODED_RUSTFLAGS="$2" CARGO_INCREMENTAL=0 \
    cargo build --release -p dacapo --target "$host" --target-dir "$folder/$1"
}

step "a build that counts what it runs through"
build counting "-Cprofile-generate=$folder/counts"

step "its work: steps, replay, wakes"
rm -rf "$folder/data" "$folder/counts"
"$folder/counting/$host/release/dacapo" bench --data "$folder/data" \
  hello5 hello5-wasm hello5-remote lone fan-out replay wake >/dev/null
"$profdata" merge -o "$folder/profile" "$folder/counts"

step "the build by that profile"
# What was built by another one is as new as its sources, for all that cargo knows.
rm -rf "$folder/by-profile"
build by-profile "-Cprofile-use=$folder/profile"
for file in dacapo dacapo.dwp; do
  [ -e "$folder/by-profile/$host/release/$file" ] || continue
  # One that runs meanwhile goes on as it is.
  cp "$folder/by-profile/$host/release/$file" "$folder/$file.new"
  mv -f "$folder/$file.new" "$folder/$file"
done
"$folder/dacapo" --version
step "done: target/released/dacapo"
