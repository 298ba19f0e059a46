#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# LJ Speech: one voice, from the archive or the first part of it to its scores. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads url=https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2
vocoder_configs=../../../conf/vocos_coded.yaml
vocoder="" more="" pretrain=conf/pretrain.yaml config=conf/ardit.yaml one_step="" exp=exp/ardit data=data
judge=../../../speechnar/shipped/joint-asr verifier="" last_clip="" overrides=""
recipe_options="stage stop_stage corpus downloads url vocoder_configs vocoder more pretrain config"
recipe_options+=" one_step exp data judge verifier last_clip overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
archive=$downloads/LJSpeech-1.1.tar.bz2
train_dirs=train dev_dirs=dev test_dir=test vocoder_start=codec

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$archive"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_ljspeech.py "${corpus:-$archive}" "$data" --unpack-to "$downloads" \
        ${last_clip:+--last "$last_clip"}
fi
. ../../shared/synthesis_stages.sh
