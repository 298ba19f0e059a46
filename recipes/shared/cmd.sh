# shellcheck shell=bash disable=SC2034 # run.sh and the stages use them
# Sourced by run.sh, behind path.sh: what the heavy commands start with, by default nothing.
#   RUN_ON=local|slurm|ray    where; ray: a job on the cluster of RAY_ADDRESS, whose machines see this folder
#   PROCESSES=N MACHINES=N    of training, N on each machine; MASTER=HOST is the first of several machines
# Decoding, features, codes and synthesis start with spread_cmd and end with engine: on Ray the cluster's workers share
# the utterances, and ENGINE=local|ray chooses that anywhere (see docs/scaling.md).
# TRAIN_CMD and DECODE_CMD replace all that, and so does a cmd.sh of the recipe's own with train_cmd=(srun --gres=gpu:1).
processes=${PROCESSES:-1} machines=${MACHINES:-1} engine=() spread_cmd=()
case "${RUN_ON:-local}" in
    local) train_cmd=() decode_cmd=() ;;
    slurm)
        train_cmd=(srun "--nodes=$machines" --ntasks-per-node=1 "--gres=gpu:$processes")
        decode_cmd=(srun --nodes=1 --ntasks=1 --gres=gpu:1)
        spread_cmd=("${decode_cmd[@]}")
        ;;
    ray)
        if [ "$machines" != 1 ]; then
            echo "$0: RUN_ON=ray trains on one machine; for more, RUN_ON=slurm" >&2
            exit 2
        fi
        here=(env -C "$PWD" "PYTHONPATH=${PYTHONPATH:-}")
        train_cmd=(ray job submit "--entrypoint-num-gpus=$processes" -- "${here[@]}")
        decode_cmd=(ray job submit --entrypoint-num-gpus=1 -- "${here[@]}")
        spread_cmd=(ray job submit -- "${here[@]}") engine=(--engine ray)
        ;;
    *)
        echo "$0: RUN_ON is local, slurm or ray, got '$RUN_ON'" >&2
        exit 2
        ;;
esac
if [ "$machines" != 1 ]; then
    meet=("--nnodes=$machines" --rdzv-backend=c10d "--rdzv-endpoint=${MASTER:?is the first of MACHINES}:29500")
    train_cmd+=("$PYTHON" -m torch.distributed.run "${meet[@]}" "--nproc-per-node=$processes" --no-python)
elif [ "$processes" != 1 ]; then
    train_cmd+=("$PYTHON" -m torch.distributed.run --standalone "--nproc-per-node=$processes" --no-python)
fi
if [ -n "${TRAIN_CMD:-}" ]; then read -ra train_cmd <<<"$TRAIN_CMD"; fi
if [ -n "${DECODE_CMD:-}" ]; then
    read -ra decode_cmd <<<"$DECODE_CMD"
    spread_cmd=("${decode_cmd[@]}")
fi
if [ -n "${ENGINE:-}" ]; then engine=(--engine "$ENGINE"); fi
# shellcheck source=/dev/null
if [ -e ./cmd.sh ]; then . ./cmd.sh; fi
# shellcheck source=/dev/null
if [ -n "${dry_run:-}" ]; then . "${repo:?}/recipes/shared/dry_run.sh"; fi
