# shellcheck shell=bash disable=SC2034
# What the heavy commands start with; on a cluster for example train_cmd=(srun --gres=gpu:1).
train_cmd=() decode_cmd=()
