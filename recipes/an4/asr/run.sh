#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# CMU AN4, English recognition: from the archive to a scored model. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads letters=upper
url=https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz # CMU offers it by http only; this copy is NeMo's
before="conf/short.yaml" config=conf/train.yaml exp=exp/train data=data vocab_size=133 decoders="" overrides=""
recipe_options="stage stop_stage corpus downloads url letters before config exp data vocab_size decoders overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$downloads/an4_sphere.tar.gz"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_an4.py "${corpus:-$downloads/an4_sphere.tar.gz}" "$data" --unpack-to "$downloads" \
        --letters "$letters"
fi
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi

# --decoders "ctc cassnat transformer_ar transformer_ar_beam10": of a model that has several, each to files of its own.
decode_sets() {
    for set in dev test; do
        if [ -z "$decoders" ]; then decode "$set" "$set"; fi
        for decoder in $decoders; do
            beam=()
            if [[ $decoder == *_beam* ]]; then beam=(--beam-size "${decoder##*_beam}"); fi
            decode "$set" "$set.asr.$decoder" --decoder "${decoder%_beam*}" "${beam[@]}"
        done
    done
}
score_sets() {
    for set in dev test; do
        if [ -z "$decoders" ]; then score "$set" "$set" "$set.asr"; fi
        for decoder in $decoders; do score "$set" "$set.asr.$decoder" "$set.asr.$decoder"; done
    done
}
. ../../shared/train_stages.sh
