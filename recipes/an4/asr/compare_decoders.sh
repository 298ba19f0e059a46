#!/usr/bin/env bash
# All decoders on one encoder, three times: `./compare_decoders.sh --corpus an4_sphere.tar.gz`, data stages included;
# `seeds="1" ./compare_decoders.sh ...` for some of them, so that several machines can share the work.
# Scores go to results/decoders/joint-seed<N>/, from where `python -m benchmarks.make_tables` takes them. Options go to run.sh.
set -euo pipefail
cd "$(dirname "$0")"

decoders="ctc cassnat paraformer transformer_ar transformer_ar_beam10"
./run.sh --stop_stage 3 "$@"
for seed in ${seeds:-0 1 2}; do
    exp=exp/joint-seed$seed
    ./run.sh --stage 4 --stop_stage 7 --before "" --config conf/joint.yaml --exp "$exp" --decoders "$decoders" \
        --overrides "train.seed=$seed" "$@"
    mkdir -p "results/decoders/joint-seed$seed"
    cp "$exp"/{dev,test}.asr.*.json "$exp"/test.asr.*.hyp "results/decoders/joint-seed$seed/"
done
