#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# AISHELL-1, Mandarin recognition in characters: Paraformer, or CASS-NAT by
# `--config conf/train_cassnat.yaml --exp exp/cassnat`. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads url=https://www.openslr.org/resources/33/data_aishell.tgz
before="" config=conf/train_paraformer.yaml exp=exp/paraformer data=data check=complete overrides=""
recipe_options="stage stop_stage corpus downloads url before config exp data check overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
archive=$downloads/data_aishell.tgz
prepare_options=(--unpack-to "$downloads")
if [ "$check" = incomplete ]; then prepare_options+=(--incomplete); fi

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$archive"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_aishell1.py "${corpus:-$archive}" "$data" "${prepare_options[@]}"
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" local/build_characters.py "$data/train" "$data/tokenizer"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi

decode_sets() { for set in dev test; do decode "$set" "$set.asr"; done; }
score_sets() { for set in dev test; do score "$set" "$set.asr" "$set.asr"; done; }
. ../../shared/train_stages.sh
