#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# IWSLT 2014, German and English TED talks: re-translation with published settings. `./run.sh --help` lists the options.
# For the other direction: ./run.sh --source eng --target deu --exp exp/eng-deu
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp=exp/deu-eng source=deu target=eng vocab_size=10000
url=https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz
teacher=conf/teacher.yaml students="conf/fretna_ctc.yaml conf/fretna.yaml:fretna_ctc conf/wait_k.yaml"
token_reward=0.3 raw_share=0.15
systems=../../multi30k/mt/conf/systems.txt sets=test limit=1000000 threads=1 overrides=""
recipe_options="stage stop_stage corpus downloads data exp source target vocab_size url teacher students token_reward"
recipe_options+=" raw_share systems sets limit threads overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
archive=$downloads/de-en.tgz

if at_stage 0 "download" && [ -z "$corpus" ]; then
    "$PYTHON" -m speechnar data download "$url" "$archive"
fi
if at_stage 1 "data directories"; then
    "$PYTHON" local/prepare_iwslt14.py "${corpus:-$archive}" "$data" --unpack-to "$downloads"
fi
. ../../shared/translation_stages.sh
