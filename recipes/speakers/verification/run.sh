#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# A speaker verifier, the judge of voices of the synthesis recipes: AN4, Asterisk, spoken digits and LJSpeech.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus_asterisk="" corpus_an4="" corpus_fsdd="" corpus_ljspeech="" downloads=downloads
before="" config=conf/train.yaml exp=exp/train data=data most=60 overrides=""
recipe_options="stage stop_stage corpus_asterisk corpus_an4 corpus_fsdd corpus_ljspeech downloads"
recipe_options+=" before config exp data most overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh

for number in 0 1; do
    if at_stage "$number" "of each corpus"; then
        data_stage "$number" asterisk/s2t "$corpus_asterisk"
        data_stage "$number" an4/asr "$corpus_an4"
        data_stage "$number" fsdd/asr "$corpus_fsdd"
        data_stage "$number" ljspeech/tts "$corpus_ljspeech"
    fi
done
if at_stage 1 "like amounts of all speakers"; then # AN4's dev and test have other speakers: they are the trials
    "$PYTHON" local/gather_speakers.py "$data" "$data"/{asterisk,an4,fsdd,ljspeech}/train --most "$most" \
        --same spa-allison=eng-allison # the same woman speaks both
fi
if at_stage 2 "tokenizer"; then # what is said does not matter, but every batch has its text
    "$PYTHON" -m speechnar data tokenizer "$data/an4/train" "$data/tokenizer" --vocab-size 60 --model-type char
fi
if at_stage 3 "statistics"; then
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,an4/dev,an4/test} |
        tee "$data/statistics.json"
fi
if [ -e "$data/train/spk2utt" ]; then
    overrides+=" model.speakers=[$(cut -d' ' -f1 "$data/train/spk2utt" | paste -sd,)]"
fi

trials=(an4/dev an4/test)
decode_sets() { :; } # nothing is decoded: the trials are scored at once
score_sets() {
    for set in "${trials[@]}"; do
        "$PYTHON" local/score_trials.py "$exp/model" "$data/$set" | tee "$exp/${set/\//-}.verification.json"
    done
}
. ../../shared/train_stages.sh
