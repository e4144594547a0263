# The verbs of daily work. `just` alone lists them; every recipe is a plain command that can be typed without it.

# What every commit passes: format, lints, tests.
default: check

# Format, lints and tests, as every commit must pass them.
check: fmt-check lint test

# All tests, or those whose names hold the words given.
test *words:
    cargo test {{words}}

# One floor's unit tests alone: `just unit txn`.
unit floor:
    cargo test --lib {{floor}}::

# Clippy on everything, warnings as errors.
lint:
    cargo clippy --all-targets --all-features -- -D warnings

# Formats the code.
fmt:
    cargo fmt

# Fails if the code is not formatted.
fmt-check:
    cargo fmt --check

# The documentation, warnings as errors; add `--open` to read it.
doc *flags:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features {{flags}}

# Builds every cut of the features.
cuts:
    cargo check --lib --no-default-features
    cargo check --lib --no-default-features --features client
    cargo check --lib --no-default-features --features full
    cargo check --lib --no-default-features --features testing

# The rules about the text of the project: floors, sizes, words, spec ids.
tidy:
    cargo test --test tidy --test features

# Eight clients at once against a server that misbehaves, and the checker: `just torture 60` for a minute a variant.
torture seconds="60":
    QUANTADB_TORTURE_SECONDS={{seconds}} cargo test --release --test torture -- --nocapture --test-threads 1

# Kills the real server under load, again and again: `just crash 3000`.
crash cycles="100":
    QUANTADB_CRASH_CYCLES={{cycles}} cargo test --release --test crash -- --nocapture acknowledged_is_lost_when_the_process

# Cuts the power of its disk under load, again and again: `just power 500`; needs root.
power cycles="30":
    QUANTADB_POWER_CYCLES={{cycles}} .ci/crash power full

# A replica and its clients in the simulator, so many seeds, each twice: `just simulate 1000`, from another first one if given.
simulate seeds="200" first="0":
    QUANTADB_SIMULATION_SEEDS={{seeds}} QUANTADB_SIMULATION_FIRST={{first}} cargo test --release --test simulation -- --nocapture

# Two scans that are granted nothing while others write: `just reader 60` for a minute.
reader seconds="60":
    QUANTADB_READER_SECONDS={{seconds}} cargo test --release --test crash -- --nocapture a_reader_that_grants_nothing

# Clusters of real processes in CI's numbers: all tests, or those whose names hold the words given; needs root.
clusters *words:
    .ci/cluster {{words}}

# Kills the leader of three again and again, and bounds the time until a write is acknowledged again: `just failover 100`.
failover kills="100":
    QUANTADB_CLUSTER_FAILOVERS={{kills}} cargo test --release --test cluster -- --nocapture replaced_in_time

# Adds under names while the leader is killed every few seconds; the sums must be exact: `just additions 100000`.
additions count="100000":
    QUANTADB_CLUSTER_ADDITIONS={{count}} cargo test --release --test cluster -- --nocapture additions_are_done_once

# Every fault in turn in one history of so many transactions over five nodes: `just partitions 100000`; needs root.
partitions transactions="100000":
    QUANTADB_CARGO_FLAGS=--release QUANTADB_CLUSTER_HISTORY={{transactions}} .ci/cluster whatever_happens

# Plants bugs one by one and demands that the torture finds each: all, or those whose names hold the words given.
sabotage *words:
    tests/sabotage.sh {{words}}

# Many clients on one lock, and what a commit costs after a long scan.
contention rows="10000,1000000":
    QUANTADB_SCAN_ROWS={{rows}} cargo test --release --test locks -- --nocapture --test-threads 1

# Rewrites the golden files from what the code does now; read the diff before committing it.
golden *words:
    UPDATE_GOLDEN=1 cargo test {{words}}

# Writes the tables, hexdumps and vectors of the specification from the code; read the diff before committing it.
spec:
    UPDATE_GOLDEN=1 cargo test --test spec

# Benchmarks: all, or those whose names hold the words given.
bench *words:
    cargo bench {{words}}

# Line coverage of the tests, with the thresholds of the project.
coverage:
    .ci/coverage

# Fuzzes all targets, or those named, for so many seconds each: `just fuzz 600 frame`.
fuzz seconds="60" *targets:
    .ci/fuzz {{seconds}} {{targets}}

# A real data set of half a million records, in and out and changed; needs npm, node and a network.
dataset:
    tests/dataset/run.sh

# The memory engine under Miri.
miri:
    .ci/miri

# Three nodes that are a cluster, in ./quantadb-cluster, until Ctrl-C: clients at 7420, 7430 and 7440.
cluster *flags:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --release --bin quantadb
    pids=()
    trap 'kill "${pids[@]}" 2> /dev/null; wait' EXIT
    for node in 1 2 3; do
        directory=quantadb-cluster/$node
        mkdir -p "$directory"
        port=$((7410 + 10 * node))
        join=()
        if [ "$node" -gt 1 ]; then join=(--join 127.0.0.1:7421); fi
        target/release/quantadb serve --data-dir "$directory/data" --listen 127.0.0.1:$port --peer-listen 127.0.0.1:$((port + 1)) \
            --admin-listen 127.0.0.1:$((port + 2)) "${join[@]}" {{flags}} 2> "$directory/log" &
        pids+=($!)
        echo $! > "$directory/pid"
        for _ in $(seq 100); do grep -q ' ready' "$directory/log" 2> /dev/null && break; sleep 0.1; done
    done
    wait

# Simulates clusters under the seeds FIRST..END: `just sim-many 1..1000`.
sim-many seeds="1..100":
    QUANTADB_SIM_SEEDS={{seeds}} cargo test --profile simulation-long --test simulation -- --nocapture whatever_happens

# Simulates one seed again, with the last of what happened and what the nodes logged: `just sim 7`.
sim seed:
    QUANTADB_SIM_SEED={{seed}} QUANTADB_SIM_LOG=1 cargo test --profile simulation --test simulation -- --nocapture whatever_happens

# Starts a server from the working tree: `just run --memory`.
run *flags:
    cargo run --release --bin quantadb -- serve {{flags}}

# The command line client from the working tree: `just ctl status`.
ctl *words:
    cargo run --release --bin quantactl -- {{words}}

# Everything that continuous integration runs.
ci:
    .ci/run
