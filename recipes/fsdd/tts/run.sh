#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Free Spoken Digit Dataset: ten words in the voice of a reference, from the archive to a scored voice.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads
vocoder_configs="../../../conf/vocos.yaml ../../../conf/vocos_gan.yaml"
vocoder="" config=conf/ardit.yaml one_step="" exp=exp/ardit data=data
judge=../../../speechnar/shipped/joint-asr verifier="" overrides=""
recipe_options="stage stop_stage corpus downloads vocoder_configs vocoder config one_step exp"
recipe_options+=" data judge verifier overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
train_dirs="train train_joined" dev_dirs="dev dev_joined" test_dir=test voices=dev_joined

if at_stage 0 "download"; then
    ../asr/run.sh --stage 0 --stop_stage 0 --corpus "$corpus" --downloads "$(realpath -m "$downloads")"
fi
if at_stage 1 "data directories"; then
    if [ -e "$corpus" ]; then corpus=$(realpath "$corpus"); fi
    ../asr/run.sh --stage 1 --stop_stage 1 --corpus "$corpus" --downloads "$(realpath -m "$downloads")" \
        --data "$(realpath -m "$data")"
    for set in train dev; do "$PYTHON" local/join_digits.py "$data/$set" "$data/${set}_joined"; done
fi
. ../../shared/synthesis_stages.sh
