# The habits of this repository. `just` alone lists them; each is one or two commands that can be typed as well.

[private]
default:
    @just --list --unsorted

# The main job, on the rehearsal world
rehearse *ARGS:
    cargo run --locked -- rehearse {{ARGS}}

# The hermetic tests; arguments go to the test binary
test *ARGS:
    cargo test --locked {{ARGS}}

# Everything that CI checks
ci *CHECKS:
    .ci/run {{CHECKS}}

# Format and mend what can be mended by itself
fix:
    cargo fmt
    cargo clippy --locked --all-targets --fix --allow-dirty --allow-staged

# The tests on a real cluster: makes and deletes a kind cluster of its own
real:
    cargo test --locked --test real -- --ignored --test-threads 1

# Measure: planner, lab.toml, events, start-up, the rehearsal's story
bench *ARGS:
    cargo bench --locked --bench coastal -- {{ARGS}}

# Look at snapshots that changed (needs cargo-insta)
review:
    cargo insta review

# Known vulnerabilities in the crates (needs cargo-deny and the network)
audit:
    cargo deny --locked check advisories
