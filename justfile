# Habits. `just` lists them.

default:
    @just --list

# Format, lints and documentation, as CI has them.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# The fast tests: no root, no mounts.
quick:
    cargo nextest run --workspace --no-tests=pass

# Everything, as CI runs it.
test:
    scripts/test.sh

# The tests that mount (as root): just root mixed_operations
root filter="":
    cargo nextest run --profile root {{filter}}

# The tests that mount, with the kernel in the place of Butterfs: tests the tests.
root-kernel filter="":
    BUTTERFS_TEST_MOUNTER=kernel cargo nextest run --profile root {{filter}}

# Build, make, mount, write, snapshot, unmount, check.
demo:
    scripts/demo.sh

# Judge simulated power cuts: just crash 100000
crash states="20000" seed="1":
    cargo run --release -p butterfs-testkit --example crash -- --states {{states}} --seed {{seed}}

# Cut the power under SQLite and other programs on a real mount, each so often (as root): just cuts 1000
cuts count="100" seed="1":
    cargo run --release -p butterfs-testkit --bin cuts -- --cuts {{count}} --seed {{seed}}

# Nearly full filesystems under load, for long: just stress 2000
stress percent="1000":
    BUTTERFS_TEST_SCALE={{percent}} cargo nextest run --release -p butterfs-engine --test full --no-capture

# Random operations on the engine beside a model in memory, for long: just model 1000000
model steps="100000" seed="1":
    BUTTERFS_MODEL_STEPS={{steps}} BUTTERFS_MODEL_SEED={{seed}} cargo test --release -p butterfs-engine --test model long_run -- --ignored --nocapture

# Time mounts and the library beside the kernel's btrfs (as root): just bench --scale 10 --only files
bench *options:
    scripts/bench.sh {{options}}

# How costs grow with files and snapshots (as root); draws docs/growth.svg
bench-growth *options:
    scripts/bench.sh growth --plot docs/growth.svg {{options}}

# What names and small files cost in the library, without a mount: just library-ops 20000
library-ops *arguments:
    cargo run --release -p butterfs-testkit --example library_ops -- {{arguments}}

# Time `butterfs check` beside `btrfs check` (as root, on a disk): just bench-check 5
bench-check runs="5" files="1000000" shared="50000":
    scripts/bench-check.sh {{runs}} {{files}} {{shared}}

# Time `butterfs restore` beside `btrfs restore` (as root): just bench-restore 5
bench-restore runs="5" files="20000":
    scripts/bench-restore.sh {{runs}} {{files}}

# Fuzz superblocks, blocks, items, compressed streams, send streams and images; what fails is kept in the corpus: just fuzz 1200
fuzz seconds="60" seed="1":
    cargo run -p butterfs-testkit --example fuzz -- --seconds {{seconds}} --seed {{seed}}

# The tests of an fstests checkout over our mount (as root): just fstests ~/xfstests generic/001
fstests suite tests="docs/fstests-expected.txt":
    scripts/fstests.sh {{suite}} {{tests}}

# Other suites and a mix of everything over our mount, and what is left of it judged (as root): just soak 600
soak seconds="600" parts="":
    scripts/soak.sh {{seconds}} {{parts}}

# Time our scrub beside the kernel's (as root): just bench-scrub 5 1024 raid5
bench-scrub runs="5" mib="1024" *profiles:
    scripts/bench-scrub.sh {{runs}} {{mib}} {{profiles}}
