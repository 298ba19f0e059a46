#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# AudioCaps: MAGNeT for sound from captions as published, on recordings that you have got yourself.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=1 stop_stage=8 corpus="" downloads=downloads data=data exp=exp/magnet
codec="" codec_configs=conf/encodec_gan.yaml
config=conf/magnet.yaml others="" overrides=""
judge="" judge_config=../../../conf/sound_classifier.yaml
recipe_options="stage stop_stage corpus downloads data exp codec codec_configs config others overrides judge judge_config"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
min_seconds=10

if at_stage 0 "download"; then
    echo "$0: the recordings are videos of others; get them, and name the folder by --corpus (see README.md)" >&2
    exit 2
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_audiocaps.py "${corpus:?give --corpus, the folder of captions and recordings}" "$data"
fi
. ../../shared/generation_stages.sh
