# shellcheck shell=bash disable=SC2034 # run.sh and the stages use them
# Sourced by run.sh: what the heavy commands start with, by default nothing. On a cluster for example
# `TRAIN_CMD="srun --gres=gpu:1" ./run.sh`, or a cmd.sh of the recipe's own with train_cmd=(srun --gres=gpu:1).
read -ra train_cmd <<<"${TRAIN_CMD:-}"
read -ra decode_cmd <<<"${DECODE_CMD:-}"
# shellcheck source=/dev/null
if [ -e ./cmd.sh ]; then . ./cmd.sh; fi
