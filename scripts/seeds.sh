#!/usr/bin/env bash
# Trains a configuration over several seeds and scores each run, one after the other:
#     scripts/seeds.sh                 the quickstart, seeds 0, 1 and 2
#     scripts/seeds.sh 3 4             the quickstart, seeds 3 and 4
#     CONFIG=configs/shapes-anywhere.toml scripts/seeds.sh
# A run that is already there is gone on with, so a stopped script is simply started again. The scores
# are in runs/NAME-seed-N/eval.json. The seed decides initial weights, noise, times and caption
# dropout; the data, their order and the prompts that are scored are the same for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config="${CONFIG:-configs/quickstart.toml}"
name="$(basename "$config" .toml)"
[ $# -gt 0 ] || set -- 0 1 2

cargo build --release
for seed in "$@"; do
    out="runs/$name-seed-$seed"
    cargo run --release --quiet -- train "$config" --set run.seed="$seed" --set run.out="$out"
    # Under another name until it is whole, so that a stopped script leaves no half of a score.
    cargo run --release --quiet -- eval "$out" --json >"$out/eval.json.partial"
    mv "$out/eval.json.partial" "$out/eval.json"
    echo "scores of seed $seed: $out/eval.json"
done
