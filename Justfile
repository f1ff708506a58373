# Short names for what is done often; `just --list` shows them.

# Build everything, start a host, deploy examples, invoke them, show the answers and the bill
demo:
    cargo run --quiet -p vesta -- demo

# All tests
test *args:
    cargo test {{args}}

# Ratios against references measured in the same run, into target/bench/report.json
bench *args:
    cargo bench --profile dev --bench ratios -- {{args}}

# Licences, banned dependencies and security advisories (needs cargo-deny and the advisory database)
audit:
    cargo deny check

# Formats every workspace
fmt:
    cargo fmt --all
    cd examples && cargo fmt --all
    cd tests/fixtures && cargo fmt --all

# Warnings are errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    cd examples && cargo clippy --release --target wasm32-wasip2 -- -D warnings
    cd tests/fixtures && cargo clippy --release --target wasm32-wasip2 -- -D warnings

# Fetches the models of text-embed and file-type
models:
    examples/fetch-models

# Writes host/openapi.json anew from the code
openapi:
    UPDATE_OPENAPI=1 cargo test -p vesta --lib openapi

# What CI runs
ci:
    .ci/run
