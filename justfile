# What CI runs, and what a developer runs before a commit.

# Everything that CI checks.
check: fmt lint test

# The formatting is rustfmt's.
fmt:
    cargo fmt --all --check
    cd examples && cargo fmt --all --check
    cd tests/guests && cargo fmt --all --check

# No warning is left.
lint:
    cargo clippy --release --workspace --all-targets -- -D warnings

# All tests.
test:
    cargo test --release --workspace

# Records the scenarios of tests/it/histories.rs that are not in tests/histories yet.
histories:
    cargo test --release -p dacapo-tests --test it -- --exact histories::histories_write --ignored

# Keeps a recording (with its module inside) in tests/histories, to be replayed for ever.
add-history FILE:
    DACAPO_HISTORY={{absolute_path(FILE)}} cargo test --release -p dacapo-tests --test it -- --exact histories::histories_add --ignored

# Mixed load with slow clients, disconnects and floods on a real server, for ten minutes.
soak SECONDS="600":
    DACAPO_SOAK_SECONDS={{SECONDS}} cargo test --release -p dacapo-tests --test it -- --exact soak::soak --ignored

# Asks a real server all that its OpenAPI description allows, and what it does not.
fuzz-api:
    cargo build --release -p dacapo
    tests/fuzz/run.sh

# What a new user does in the first five minutes.
first-five-minutes:
    tests/first-five-minutes.sh

# Licences and advisories, where their lists can be read.
deny:
    cargo deny check

# The command as it is released, at target/released/dacapo: compiled by a profile of its work.
released:
    host/released.sh

# The benchmark, one JSON object per workload.
bench:
    cargo run --release -p dacapo -- bench

# Instructions of what can be counted; an error where they are 5 % more than they were.
instructions:
    cargo run --release -p dacapo -- bench --instructions --compare host/docs/instructions.json
