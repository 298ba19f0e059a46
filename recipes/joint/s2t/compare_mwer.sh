#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Does minimum word error rate training lower Paraformer's error rate on the development sets? From one model
# (`start=exp/joint/model`), for each of `seeds`, as many updates with that loss as with cross-entropy.
set -euo pipefail
cd "$(dirname "$0")"
. ../../shared/path.sh

start=${start:-exp/joint/model}
score_dev() { # MODEL NAME
    for set in asterisk an4; do
        "$PYTHON" -m speechnar decode "$1" "data/$set/dev" "exp/mwer/$2.$set.hyp" --decoder paraformer
        mkdir -p "results/mwer/$2"
        "$PYTHON" -m speechnar score "data/$set/dev" "exp/mwer/$2.$set.hyp" --json \
            >"results/mwer/$2/${set}_dev.asr.paraformer.json"
    done
}
mkdir -p exp/mwer
score_dev "$start" start
for seed in ${seeds:-0 1 2}; do
    for loss in ce mwer; do
        settings="train.seed=$seed"
        if [ "$loss" = ce ]; then settings+=" model.paraformer.mwer=null"; fi
        ./run.sh --stage 4 --stop_stage 4 --before "" --init_from "$start" --config conf/mwer.yaml \
            --exp "exp/mwer/$loss-seed$seed" --overrides "$settings"
        score_dev "exp/mwer/$loss-seed$seed/model" "$loss-seed$seed"
    done
done
