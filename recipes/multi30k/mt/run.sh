#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Multi30k, re-translation of growing texts: from the captions to scored systems. `./run.sh --help` lists the options.
# For another direction: ./run.sh --target fra --data data/eng-fra --exp exp/eng-fra
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp=exp source=eng target=deu vocab_size=4000
url=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
teacher=conf/teacher.yaml students="conf/fretna_ctc.yaml conf/fretna.yaml:fretna_ctc conf/wait_k.yaml"
token_reward=0.3 raw_share=0.15
systems=conf/systems.txt sets=test limit=1000000 threads=1 overrides=""
recipe_options="stage stop_stage corpus downloads data exp source target vocab_size url teacher students token_reward"
recipe_options+=" raw_share systems sets limit threads overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
languages=(eng "$source" "$target")

if at_stage 0 "download" && [ -z "$corpus" ]; then
    for lang in en de fr; do
        for set in train val test_2016_flickr test_2017_flickr; do
            "$PYTHON" -m speechnar data download "$url/$set.$lang.gz" "$downloads/multi30k/$set.$lang.gz"
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
. ../../shared/translation_stages.sh
