#!/usr/bin/env bash
# Fuzzes each target for a while: tests/fuzz/run.sh [SECONDS]. What it finds is written to the working directory; keep it
# as a fixture of an ordinary test. The flags are those of cargo-fuzz, without a sanitizer: they work on stable Rust.
set -euo pipefail
cd "$(dirname "$0")"
triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1"
cargo build --quiet --release --target "$triple"
for target in targets/*.rs; do
  name=$(basename "$target" .rs)
  mkdir -p "corpus/$name" "seeds/$name"
  "target/$triple/release/$name" -max_total_time="${1:-20}" -max_len=2048 -print_final_stats=1 "corpus/$name" "seeds/$name" 2>&1 | tail -n 8
done
