#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Free Spoken Digit Dataset, English digits: from the archive to a scored model. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads
url=https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz
before="" config=conf/train.yaml exp=exp/train data=data vocab_size=56 overrides=""
recipe_options="stage stop_stage corpus downloads url before config exp data vocab_size overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
archive=$downloads/free-spoken-digit-dataset.tar.gz

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$archive"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_fsdd.py "${corpus:-$archive}" "$data" --unpack-to "$downloads"
fi
if at_stage 2 "tokenizer"; then # a piece for each word: some digits are shorter than CTC's frames for their letters
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --model-type bpe
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi

decode_sets() { for set in dev test; do decode "$set" "$set.asr"; done; }
score_sets() { for set in dev test; do score "$set" "$set.asr" "$set.asr"; done; }
. ../../shared/train_stages.sh
