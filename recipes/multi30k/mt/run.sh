#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Multi30k, re-translation of growing texts: from the captions to scored systems. `./run.sh --help` lists the options.
# For another direction: ./run.sh --target fra --data data/eng-fra --exp exp/eng-fra
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp=exp source=eng target=deu vocab_size=4000
url=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
teacher=conf/teacher.yaml students="conf/fretna_ctc.yaml conf/fretna.yaml conf/wait_k.yaml" token_reward=0.3 raw_share=0.15
systems=conf/systems.txt sets=test limit=1000000 threads=1 overrides=""
recipe_options="stage stop_stage corpus downloads data exp source target vocab_size url teacher students token_reward"
recipe_options+=" raw_share systems sets limit threads overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ./path.sh
. ./cmd.sh
read -ra settings <<<"$overrides" # --overrides "train.max_steps=100 train.seed=1"
direction=(--source "$source" --target "$target")
languages=(eng "$source" "$target")

learn() { # CONFIG TRAIN: to $exp/NAME
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$1" --exp "$exp/$(basename "$1" .yaml)" "data.train=$2" \
        "data.dev=$data/dev" "data.source=$source" "data.target=$target" "tokenizer=$data/tokenizer" "${settings[@]}"
}

if at_stage 0 "download" && [ -z "$corpus" ]; then
    for lang in en de fr; do
        for set in train val test_2016_flickr test_2017_flickr; do
            "$PYTHON" -m speechnar.data.download "$url/$set.$lang.gz" "$downloads/multi30k/$set.$lang.gz"
        done
    done
fi
if at_stage 1 "data directories"; then # all of them hold English and the other languages
    targets=()
    for lang in $(printf '%s\n' "${languages[@]}" | sort -u); do
        if [ "$lang" != eng ]; then targets+=("$lang"); fi
    done
    "$PYTHON" local/prepare_multi30k.py "${corpus:-$downloads/multi30k}" "$data" --targets "${targets[@]}"
fi
if at_stage 2 "tokenizer"; then # one for both languages, whose embeddings are shared
    "$PYTHON" -m speechnar.data.build_tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --model-type bpe --translate-to "$source" "$target"
fi
if at_stage 3 "statistics"; then
    "$PYTHON" -m speechnar.data.describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi
teacher_exp=$exp/$(basename "$teacher" .yaml)
if at_stage 4 "train"; then # the teacher, and on its translations of the training set the others
    learn "$teacher" "$data/train"
    "${decode_cmd[@]}" "$PYTHON" -m speechnar.train.distil "$teacher_exp/model" "$data/train" "$exp/distilled" \
        "${direction[@]}" --token-reward "$token_reward" --raw-share "$raw_share"
    for config in $students; do learn "$config" "$exp/distilled"; done
fi

# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average"; then
    for config in "$teacher" $students; do
        folder=$exp/$(basename "$config" .yaml)
        if [ ! -e "$folder/model/model.safetensors" ]; then "$PYTHON" -m speechnar average "$folder"; fi
    done
fi
if at_stage 6 "decode"; then # every system to a log of its own, word by word
    grep -v '^#' "$systems" | while read -r name model options; do
        read -ra given <<<"${options//EXP/$exp}"
        for set in $sets; do
            "${decode_cmd[@]}" "$PYTHON" -m speechnar.translate_data "$exp/$model/model" "$data/$set" \
                "$exp/logs/$set/$name.jsonl" "${direction[@]}" --limit "$limit" --threads "$threads" "${given[@]}"
        done
    done
fi
if at_stage 7 "score"; then # a line of JSON for each system, and a plot of all
    for set in $sets; do
        "$PYTHON" -m speechnar.evaluate_translation "$data/$set" "$exp/logs/$set"/*.jsonl --target "$target" \
            --plot "$exp/$set.scores.png" | tee "$exp/$set.scores.jsonl"
    done
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    for config in "$teacher" $students; do
        name=$(basename "$config" .yaml)
        "$PYTHON" -m speechnar.models.pack "$exp/$name/model" "$exp/export/$name" --card README.md
    done
fi
