#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Free Spoken Digit Dataset as sound: digits are classes, and a model makes one when it is told its name.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp=exp/magnet
codec="" codec_configs=conf/encodec.yaml
config=conf/magnet.yaml others="conf/enat.yaml conf/music_ar.yaml" overrides=""
judge="" judge_config=../../../conf/sound_classifier.yaml
recipe_options="stage stop_stage corpus downloads data exp codec codec_configs config others overrides judge judge_config"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
# Digits last half a second: silence follows, so that they fill a window of 48 frames.
min_seconds=0.96 lead_seconds=0.2 long_seconds=3
judge_settings="data.batch_seconds=60"

for number in 0 1; do
    if at_stage "$number" "data of fsdd/asr"; then data_stage "$number" fsdd/asr "$corpus"; fi
done
data=$data/fsdd
. ../../shared/generation_stages.sh
