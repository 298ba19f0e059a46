#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# LibriSpeech, English recognition: 100 hours by default, --parts for all 960. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads url=https://www.openslr.org/resources/12
parts=train-clean-100 config=conf/train.yaml exp=exp/train data=data vocab_size=1024 check=complete overrides=""
recipe_options="stage stop_stage corpus downloads url parts config exp data vocab_size check overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
read -ra train_parts <<<"$parts"  # --parts "train-clean-100 train-clean-360 train-other-500"
eval_parts=(dev-clean dev-other test-clean test-other)
prepare_options=(--unpack-to "$downloads")
if [ "$check" = incomplete ]; then prepare_options+=(--incomplete); fi

if at_stage 0 "download" && [ -z "$corpus" ]; then
    for part in "${train_parts[@]}" "${eval_parts[@]}"; do
        "$PYTHON" -m speechnar data download "$url/$part.tar.gz" "$downloads/$part.tar.gz"
    done
fi
if at_stage 1 "data directories"; then
    prepare() { "$PYTHON" local/prepare_librispeech.py "${corpus:-$downloads}" "$@" "${prepare_options[@]}"; }
    prepare "$data/train" "${train_parts[@]}"
    prepare "$data/dev" dev-clean dev-other
    for part in "${eval_parts[@]}"; do prepare "$data/$part" "$part"; done
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev} | tee "$data/statistics.json"
fi

decode_sets() { for part in "${eval_parts[@]}"; do decode "$part" "$part"; done; }
score_sets() { for part in "${eval_parts[@]}"; do score "$part" "$part" "$part.asr"; done; }
. ../../shared/train_stages.sh
