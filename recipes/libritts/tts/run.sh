#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# LibriTTS, the paper's system at 24 kHz in the voice of any reference; for GPUs. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads url=https://www.openslr.org/resources/60
parts="train-clean-100 train-clean-360 train-other-500" positions=linear autoencoder="conf/autoencoder.yaml conf/masked.yaml"
vocoder_configs=conf/vocos_gan.yaml vocoder="" config=conf/ardit.yaml one_step=conf/one_step.yaml
exp=exp/ardit data=data judge="" verifier="" overrides=""
recipe_options="stage stop_stage corpus downloads url parts autoencoder vocoder_configs vocoder config one_step exp"
recipe_options+=" data judge verifier overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
read -ra train_parts <<<"$parts"
train_dirs=train dev_dirs=dev test_dir=test voices=voices

if at_stage 0 "download" && [ -z "$corpus" ]; then
    for part in "${train_parts[@]}" dev-clean test-clean; do
        "$PYTHON" -m speechnar data download "$url/$part.tar.gz" "$downloads/$part.tar.gz"
    done
fi
if at_stage 1 "data directories"; then
    prepare() { "$PYTHON" local/prepare_libritts.py "${corpus:-$downloads}" "$@" --unpack-to "$downloads"; }
    prepare "$data/train" "${train_parts[@]}"
    prepare "$data/dev" dev-clean
    prepare "$data/test" test-clean --voices "$data/voices"
fi
. ../../shared/synthesis_stages.sh
