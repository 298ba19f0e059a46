#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Asterisk's music on hold: five pieces of music, from the package to a model that goes on in their manner.
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

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" local/fetch_opsound.py "$downloads"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_opsound.py "${corpus:-$downloads}" "$data"
fi
. ../../shared/generation_stages.sh
