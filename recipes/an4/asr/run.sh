#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# CMU AN4, English recognition: from the archive to a scored model. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads
url=http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz
before="conf/short.yaml" config=conf/train.yaml exp=exp/train data=data vocab_size=133 overrides=""
recipe_options="stage stop_stage corpus downloads url before config exp data vocab_size overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ./path.sh
. ./cmd.sh
read -ra settings <<<"$overrides" # --overrides "train.max_steps=100 train.seed=1"

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar.data.download "$url" "$downloads/an4_sphere.tar.gz"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_an4.py "${corpus:-$downloads/an4_sphere.tar.gz}" "$data" --unpack-to "$downloads"
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar.data.build_tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar.data.describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi
if at_stage 4 "train"; then # each configuration starts from the weights of the one before it
    settings+=("data.train=$data/train" "data.dev=$data/dev" "tokenizer=$data/tokenizer")
    start=()
    for part in $before; do
        name=$(basename "$part" .yaml)
        "${train_cmd[@]}" "$PYTHON" -m speechnar train "$part" --exp "$exp/$name" "${start[@]}" "${settings[@]}"
        start=("init_from=$exp/$name/model")
    done
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$config" --exp "$exp" "${start[@]}" "${settings[@]}"
fi
# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average" && [ ! -e "$exp/model/model.safetensors" ]; then
    "$PYTHON" -m speechnar average "$exp"
fi
if at_stage 6 "decode"; then
    for set in dev test; do
        "${decode_cmd[@]}" "$PYTHON" -m speechnar decode "$exp/model" "$data/$set" "$exp/$set.hyp"
    done
fi
if at_stage 7 "score"; then
    for set in dev test; do
        "$PYTHON" -m speechnar score "$data/$set" "$exp/$set.hyp" | tee "$exp/$set.score"
        "$PYTHON" -m speechnar score "$data/$set" "$exp/$set.hyp" --json >"$exp/$set.asr.json"
    done
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar.models.pack "$exp/model" "$exp/export" --card README.md
fi
