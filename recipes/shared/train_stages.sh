# shellcheck shell=bash disable=SC2154
# Sourced at the end of run.sh: stages 4 to 8, from data directories to a scored and exported model. Besides the options
# it reads decode_sets and score_sets, functions that call the two below, and where a recipe sets them: train_dirs_of, a
# function that prints the training directories for a configuration (as YAML), dev_dirs (as YAML), tokenizer, init_from,
# a model to start from, pretrained, one that every configuration starts from, below the one before it, and
# packed_decoders, A,B of a joint model that are exported beside CTC.

decode() { # SET NAME [OPTION]...: the set's hypotheses, to $exp/NAME.hyp
    "${spread_cmd[@]}" "$PYTHON" -m speechnar decode "$exp/model" "$data/$1" "$exp/$2.hyp" "${@:3}" "${engine[@]}"
}
if ! declare -F train_dirs_of >/dev/null; then
    train_dirs_of() { echo "$data/train"; }
fi
score() { # SET NAME JSON [OPTION]...: of these hypotheses, to $exp/NAME.score and $exp/JSON.json
    "$PYTHON" -m speechnar score "$data/$1" "$exp/$2.hyp" "${@:4}" | tee "$exp/$2.score"
    "$PYTHON" -m speechnar score "$data/$1" "$exp/$2.hyp" "${@:4}" --json | tee "$exp/$3.json" >/dev/null
}

if at_stage 4 "train"; then # each configuration starts from the weights of the one before it
    read -ra settings <<<"${overrides:-}" # --overrides "train.max_steps=100 train.seed=1"
    settings+=("data.dev=${dev_dirs:-$data/dev}")
    settings+=("tokenizer=${tokenizer:-$data/tokenizer}")
    start=(${pretrained:+"init_from=$pretrained"})
    start_from() {
        start=("init_from=$1")
        if [ -n "${pretrained:-}" ]; then start=("init_from=[$pretrained,$1]"); fi
    }
    if [ -n "${init_from:-}" ]; then start_from "$init_from"; fi
    for part in ${before:-}; do
        name=$(basename "$part" .yaml)
        "${train_cmd[@]}" "$PYTHON" -m speechnar train "$part" --exp "$exp/$name" "${start[@]}" "${settings[@]}" \
            "data.train=$(train_dirs_of "$part")"
        start_from "$exp/$name/model"
    done
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$config" --exp "$exp" "${start[@]}" "${settings[@]}" \
        "data.train=$(train_dirs_of "$config")"
fi
# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average" && [ ! -e "$exp/model/model.safetensors" ]; then
    "$PYTHON" -m speechnar average "$exp"
fi
if at_stage 6 "decode"; then decode_sets; fi
if at_stage 7 "score"; then score_sets; fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar pack "$exp/model" "$exp/export" --card README.md \
        ${packed_decoders:+--decoders "$packed_decoders"}
fi
