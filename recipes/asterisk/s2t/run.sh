#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Asterisk core sounds: recognition, translation and language identification in five languages.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads before="conf/short.yaml conf/train.yaml" config=conf/polish.yaml exp=exp/train data=data
vocab_size=400 model_type=char overrides=""
recipe_options="stage stop_stage corpus downloads before config exp data vocab_size model_type overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ./path.sh
. ./cmd.sh
read -ra settings <<<"$overrides" # --overrides "train.max_steps=100 train.seed=1"
languages=(eng spa fra ita rus)

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" local/fetch_asterisk.py "$downloads"
fi
if at_stage 1 "data directories"; then # what was dropped, and why, is in counts.json
    "$PYTHON" local/prepare_asterisk.py "${corpus:-$downloads}" "$data"
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar.data.build_tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --model-type "$model_type" --languages "${languages[@]}" --translate-to "${languages[@]}"
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
if at_stage 6 "decode"; then # the language is never told; translations into and from English have references
    for task in asr "${languages[@]/#/st_}"; do
        "${decode_cmd[@]}" "$PYTHON" -m speechnar decode "$exp/model" "$data/test" "$exp/test.$task.hyp" --task "$task"
    done
fi
if at_stage 7 "score"; then
    "$PYTHON" -m speechnar score "$data/test" "$exp/test.asr.hyp" | tee "$exp/test.asr.score"
    "$PYTHON" -m speechnar score "$data/test" "$exp/test.asr.hyp" --json >"$exp/test.asr.json"
    for lang in "${languages[@]}"; do
        "$PYTHON" -m speechnar score "$data/test" "$exp/test.st_$lang.hyp" --target "$lang" | tee "$exp/test.st_$lang.score"
        "$PYTHON" -m speechnar score "$data/test" "$exp/test.st_$lang.hyp" --target "$lang" --json >"$exp/test.st_$lang.json"
        # The trivial baseline: the reference transcript, not translated.
        "$PYTHON" -m speechnar score "$data/test" "$data/test/text" --target "$lang" --json >"$exp/untranslated.st_$lang.json"
    done
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar.models.pack "$exp/model" "$exp/export" --card README.md
fi
