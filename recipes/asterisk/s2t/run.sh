#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Asterisk core sounds: recognition, translation and language identification in five languages.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads before="conf/short.yaml conf/train.yaml" config=conf/polish.yaml exp=exp/train data=data
text=plain vocab_size=400 model_type=char overrides=""
recipe_options="stage stop_stage corpus downloads before config exp data text vocab_size model_type overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
languages=(eng spa fra ita rus)

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" local/fetch_asterisk.py "$downloads"
fi
if at_stage 1 "data directories"; then # what was dropped, and why, is in counts.json
    "$PYTHON" local/prepare_asterisk.py "${corpus:-$downloads}" "$data" --text "$text"
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --model-type "$model_type" --languages "${languages[@]}" --translate-to "${languages[@]}"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi

decode_sets() { # the language is never told; translations into and from English have references
    for task in asr "${languages[@]/#/st_}"; do decode test "test.$task" --task "$task"; done
}
score_sets() {
    score test test.asr test.asr
    for lang in "${languages[@]}"; do
        score test "test.st_$lang" "test.st_$lang" --target "$lang"
        # The trivial baseline: the reference transcript, not translated.
        "$PYTHON" -m speechnar score "$data/test" "$data/test/text" --target "$lang" --json >"$exp/untranslated.st_$lang.json"
    done
}
. ../../shared/train_stages.sh
