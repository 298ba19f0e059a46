#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# ESC-50: fifty kinds of environmental sound, from the archive to a model that makes one when it is told its name.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp=exp/magnet
url=https://github.com/karolpiczak/ESC-50/archive/33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6.zip
codec="" codec_configs="../../../conf/encodec.yaml ../../../conf/encodec_gan.yaml"
config=conf/magnet.yaml others="conf/enat.yaml conf/music_ar.yaml" overrides=""
judge="" judge_config=../../../conf/sound_classifier.yaml
recipe_options="stage stop_stage corpus downloads data exp url codec codec_configs config others overrides judge judge_config"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
archive=$downloads/ESC-50.zip
min_seconds=5 codec_settings="data.batch_seconds=80" long_seconds=15

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$archive"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_esc50.py "${corpus:-$archive}" "$data" --unpack-to "$downloads"
fi
. ../../shared/generation_stages.sh
