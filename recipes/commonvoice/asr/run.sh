#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Common Voice, recognition in any of its languages: from releases or delta segments to a scored model.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads language="" exclude="" train_only=""
eval_minutes=30 config=conf/train.yaml exp=exp/train data=data vocab_size=512 overrides=""
recipe_options="stage stop_stage corpus downloads language exclude train_only eval_minutes config"
recipe_options+=" exp data vocab_size overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh

if at_stage 0 "download" && [ -z "$corpus" ]; then # its site asks everybody to agree to its terms
    echo "fetch a language from Common Voice's site, then give its archives by --corpus \"FILE...\"" >&2
    exit 2
fi
if at_stage 1 "data directories"; then
    read -ra for_training <<<"$train_only" # more of them, none of whose speakers is in dev or test
    read -ra releases <<<"$corpus" # --corpus "cv-corpus-17.0-fr.tar.gz cv-corpus-18.0-delta-fr.tar.gz"
    "$PYTHON" local/prepare_commonvoice.py "$data" "${releases[@]}" --unpack-to "$downloads" \
        --eval-minutes "$eval_minutes" ${language:+--language "$language"} ${exclude:+--exclude "$exclude"} \
        ${train_only:+--train-only "${for_training[@]}"}
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi

decode_sets() { for set in dev test; do decode "$set" "$set"; done; }
score_sets() { for set in dev test; do score "$set" "$set" "$set.asr"; done; }
. ../../shared/train_stages.sh
