#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# MuST-C, English speech to text in another language, and recognition. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads target=deu config=conf/train.yaml exp="" data="" vocab_size=4000 overrides=""
recipe_options="stage stop_stage corpus downloads target config exp data vocab_size overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ./path.sh
. ./cmd.sh
read -ra settings <<<"$overrides" # --overrides "train.max_steps=100 train.seed=1"
data=${data:-data/$target} exp=${exp:-exp/$target}

if at_stage 0 "download" && [ -z "$corpus" ]; then
    echo "$0: MuST-C is given out on request at https://mt.fbk.eu/must-c; pass the archive or folder as --corpus" >&2
    exit 2
fi
if at_stage 1 "data directories"; then
    for set in train dev tst-COMMON; do
        "$PYTHON" local/prepare_mustc.py "$corpus" "$data/$set" "$set" "$target" --unpack-to "$downloads"
    done
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar.data.build_tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --languages eng "$target" --translate-to "$target"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar.data.describe "$data/tokenizer" "$data"/{train,dev} | tee "$data/statistics.json"
fi
if at_stage 4 "train"; then
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$config" --exp "$exp" \
        "data.train=$data/train" "data.dev=$data/dev" "tokenizer=$data/tokenizer" "${settings[@]}"
fi
# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average" && [ ! -e "$exp/model/model.safetensors" ]; then
    "$PYTHON" -m speechnar average "$exp"
fi
if at_stage 6 "decode"; then
    for task in asr "st_$target"; do
        "${decode_cmd[@]}" "$PYTHON" -m speechnar decode "$exp/model" "$data/tst-COMMON" "$exp/test.$task.hyp" \
            --task "$task" --language eng
    done
fi
if at_stage 7 "score"; then
    "$PYTHON" -m speechnar score "$data/tst-COMMON" "$exp/test.asr.hyp" | tee "$exp/test.asr.score"
    "$PYTHON" -m speechnar score "$data/tst-COMMON" "$exp/test.st_$target.hyp" --target "$target" |
        tee "$exp/test.st_$target.score"
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar.models.pack "$exp/model" "$exp/export" --card README.md
fi
