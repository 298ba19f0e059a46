# shellcheck shell=bash disable=SC2154,SC2086 # names of directories and configurations are words
# Sourced at the end of the run.sh of a synthesis recipe: stages 2 to 8, from data directories to a scored and exported
# voice. Besides the options it reads train_dirs, dev_dirs and test_dir, names of directories in $data, and where a recipe
# has them: positions=linear, for a model that needs no durations; autoencoder, configurations of the tokenizer of
# latents (none: principal components); vocoder_configs; vocoder_start=codec, if the first of these learns behind the
# codec; more, other directories, from which the vocoder learns, too, and
# what comes before the voice by the configuration pretrain; one_step, the configuration of what learns from the finished
# model to need a single step, where its own is not good enough; vocoder_dirs, those of train_dirs that the vocoder learns
# from, if not all; tokenizer_dirs, if the first of train_dirs does not have all sounds; voices, a directory in $data with
# a recording of each voice. Several configurations are trained one after another, each from the model before it.

in_data() { # NAME...
    local name paths=()
    for name in "$@"; do paths+=("$data/$name"); done
    yaml_list "${paths[@]}"
}
learn() { # CONFIG EXP [KEY=VALUE]...: on $learned_from, by default the recipe's data, with its tokenizer
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$1" --exp "$2" "data.train=${learned_from:-$(in_data $train_dirs)}" \
        "data.dev=$(in_data $dev_dirs)" "tokenizer=$data/tokenizer" "${@:3}"
}
learn_in_turn() { # START CONFIG...: each from the model before it, the first from START ("": none); sets $last
    last=$1
    for part in "${@:2}"; do
        learn "$part" "$exp/$(basename "$part" .yaml)" ${last:+"init_from=$last"} "${settings[@]}"
        last=$exp/$(basename "$part" .yaml)/model
    done
}
read -ra settings <<<"${overrides:-}" # --overrides "train.max_steps=100 train.seed=1"
if at_stage 2 "tokenizer"; then # phonemes of English
    dirs=()
    for name in ${tokenizer_dirs:-${train_dirs%% *}}; do dirs+=("$data/$name"); done
    "$PYTHON" -m speechnar data tokenizer "${dirs[@]}" "$data/tokenizer" --model-type phonemes
fi
if at_stage 3 "statistics"; then # of the data, how phonemes sound and how long they last, and what latents are like
    dirs=()
    for name in $train_dirs $dev_dirs; do dirs+=("$data/$name"); done
    for folder in ${more:-}; do dirs+=("$folder"); done
    if [ "${positions:-aligned}" = aligned ]; then
        "$PYTHON" -m speechnar data durations "$data/tokenizer" "${dirs[@]}" --aligner "$exp/aligner"
    fi
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "${dirs[@]}" | tee "$data/statistics.json"
    learn_in_turn "" ${autoencoder:-}
    "$PYTHON" -m speechnar tts fit-codec "$config" "$exp/codec" "data.train=$(in_data $train_dirs)" \
        "data.dev=$(in_data $dev_dirs)" "tokenizer=$data/tokenizer" ${last:+"init_from=$last"}
fi
if at_stage 4 "train"; then # the vocoder unless there is one, ARDiT, and a one-step student if there is to be one
    dirs=()
    for name in $train_dirs; do dirs+=("$data/$name"); done
    everything=$(yaml_list "${dirs[@]}" ${more:-})
    if [ -z "${vocoder:-}" ]; then
        dirs=()
        for name in ${vocoder_dirs:-$train_dirs}; do dirs+=("$data/$name"); done
        learned_from=$(yaml_list "${dirs[@]}" ${more:-}) learn_in_turn "${vocoder_start:+$exp/$vocoder_start}" $vocoder_configs
        vocoder=$last
    fi
    parts=("$exp/codec" "$vocoder")
    if [ "${positions:-aligned}" = aligned ]; then parts+=("$exp/aligner"); fi
    start=$(yaml_list "${parts[@]}")
    if [ -n "${more:-}" ]; then
        learned_from=$everything learn "$pretrain" "$exp/pretrain" "init_from=$start" "${settings[@]}"
        start=$exp/pretrain/model
    fi
    learn "$config" "$exp" "init_from=$start" "${settings[@]}"
    if [ -n "${one_step:-}" ]; then learn "$one_step" "$exp/one_step" "init_from=$exp/model" "${settings[@]}"; fi
fi

# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average" && [ ! -e "$exp/model/model.safetensors" ]; then
    "$PYTHON" -m speechnar average "$exp"
fi
speak() { # SYSTEM MODEL [OPTION]...: the test set by that system, to $exp/speech/SYSTEM
    "${spread_cmd[@]}" "$PYTHON" -m speechnar tts decode "$2" "$data/$test_dir" "$exp/speech/$1" "${@:3}" "${engine[@]}"
}
final=$exp/model
if [ -n "${one_step:-}" ]; then final=$exp/one_step/model; fi
if at_stage 6 "decode"; then # each name says what the recordings or the texts went through
    as=()
    if [ -n "${voices:-}" ]; then as=(--voices "$data/$voices"); fi
    speak vocoded "$exp/model" --system vocoded
    speak coded "$exp/model" --system coded
    speak steps16 "$exp/model" --steps 16 "${as[@]}"
    speak steps1 "$final" --steps 1 "${as[@]}"
fi
if at_stage 7 "score"; then
    if [ -z "${judge:-}" ] || [ -z "${verifier:-}" ]; then
        echo "$0: stage 7 needs --judge, a recogniser, and --verifier, a speaker_verifier (recipes/speakers)" >&2
        exit 2
    fi
    systems=()
    for name in vocoded coded steps16 steps1; do systems+=(--system "$name=$exp/speech/$name"); done
    "$PYTHON" -m speechnar tts score "$data/$test_dir" "$exp/speech" --judge "$judge" --verifier "$verifier" \
        "${systems[@]}"
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar pack "$final" "$exp/export" --card README.md
fi
