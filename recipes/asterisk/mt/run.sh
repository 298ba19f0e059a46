#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# The texts of Asterisk's prompts: translation between any two of five languages, at the size of a few hundred sentences.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus="" downloads=downloads data=data exp="" source=eng target=spa vocab_size=400
multi30k=../../multi30k/mt/conf
teacher=$multi30k/teacher.yaml
students="$multi30k/fretna_ctc.yaml $multi30k/fretna.yaml:fretna_ctc $multi30k/wait_k.yaml"
systems=$multi30k/systems.txt sets=test limit=1000000 threads=1 token_reward=0.3 raw_share=0.15
overrides="train.max_steps=800 train.optim.schedule.total_steps=800 train.optim.schedule.warmup_steps=100 "
overrides+="train.validate_every=100 train.save_every=100 train.ema_decay=0.98"
recipe_options="stage stop_stage corpus downloads data exp source target vocab_size teacher students systems sets limit"
recipe_options+=" threads token_reward raw_share overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
exp=${exp:-exp/$source-$target}

if at_stage 0 "download"; then data_stage 0 asterisk/s2t "$corpus"; fi
if at_stage 1 "data directories"; then
    data_stage 1 asterisk/s2t "$corpus"
    for set in train dev test; do
        "$PYTHON" local/copy_texts.py "$data/asterisk/$set" "$data/$source-$target/$set" "$source" "$target"
    done
fi
data=$data/$source-$target
. ../../shared/translation_stages.sh
