#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# MuST-C, English speech to text in another language, and recognition. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads target=deu config=conf/train.yaml exp="" data="" vocab_size=4000 overrides=""
recipe_options="stage stop_stage corpus downloads target config exp data vocab_size overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
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
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --languages eng "$target" --translate-to "$target"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev} | tee "$data/statistics.json"
fi

decode_sets() { for task in asr "st_$target"; do decode tst-COMMON "test.$task" --task "$task" --language eng; done; }
score_sets() {
    score tst-COMMON test.asr test.asr
    score tst-COMMON "test.st_$target" "test.st_$target" --target "$target"
}
. ../../shared/train_stages.sh
