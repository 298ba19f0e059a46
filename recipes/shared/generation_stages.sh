# shellcheck shell=bash disable=SC2154,SC2086 # names of configurations are words
# Sourced at the end of the run.sh of a recipe for music or sound: stages 2 to 8, from data directories to a scored and
# exported model. Besides the options it reads min_seconds, where clips are to be at least that long (silence follows),
# min_count, below which a word is left out of the tokenizer, codec_settings and judge_settings, what these trainings
# differ in from their configurations, and long_seconds, of sound of several windows. The model ($config) and what it is compared with ($others)
# learn from the codes of a codec; without --codec, the recipe trains one.
read -ra settings <<<"${overrides:-}" # --overrides "train.max_steps=100 train.seed=1"
learn() { # CONFIG EXP [KEY=VALUE]...: on the recipe's data
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$1" --exp "$2" "data.train=$data/train" "data.dev=$data/dev" \
        "tokenizer=$data/tokenizer" "${@:3}" "${settings[@]}"
}
folder_of() { # CONFIG: where its model is trained
    if [ "$1" = "$config" ]; then echo "$exp"; else echo "$(dirname "$exp")/$(basename "$1" .yaml)"; fi
}
if at_stage 2 "tokenizer"; then # the words that are told
    "$PYTHON" -m speechnar data words "$data/train" "$data/tokenizer" --min-count "${min_count:-1}"
fi
if at_stage 3 "statistics"; then # of the data; and the codec, with the codes it gives them
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
    if [ -z "${codec:-}" ]; then
        for part in $codec_configs; do
            learn "$part" "$exp/$(basename "$part" .yaml)" ${codec:+"init_from=$codec"} ${codec_settings:-}
            codec=$exp/$(basename "$part" .yaml)/model
        done
    fi
    rm -rf "$exp/codec"
    mkdir -p "$exp"
    cp -r "$codec" "$exp/codec"
    "${spread_cmd[@]}" "$PYTHON" -m speechnar data codes "$exp/codec" "$data"/{train,dev,test} \
        --min-seconds "${min_seconds:-0}" "${engine[@]}"
fi
if at_stage 4 "train"; then
    for part in $config ${others:-}; do
        learn "$part" "$(folder_of "$part")" "init_from=$exp/codec"
    done
fi
# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average"; then
    for part in $config ${others:-}; do
        folder=$(folder_of "$part")
        if [ ! -e "$folder/model/model.safetensors" ]; then "$PYTHON" -m speechnar average "$folder"; fi
    done
fi
make_sound() { # SYSTEM MODEL [OPTION]...: of the test set's texts by that system, to $exp/sound/SYSTEM
    "${spread_cmd[@]}" "$PYTHON" -m speechnar sound decode "$2" "$data/test" "$exp/sound/$1" "${@:3}" "${engine[@]}"
}
if at_stage 6 "decode"; then # what the codec makes of the recordings is the best that models of its codes can do
    make_sound coded "$exp/model" --system coded
    for part in $config ${others:-}; do
        make_sound "$(basename "$part" .yaml)" "$(folder_of "$part")/model"
    done
    for part in $others; do
        if [ "$(basename "$part")" = music_ar.yaml ]; then
            make_sound rescored "$exp/model" --partner "$(folder_of "$part")/model" --rescore
            make_sound hybrid "$exp/model" --partner "$(folder_of "$part")/model" --lead-seconds "${lead_seconds:-1}"
        fi
    done
    make_sound long "$exp/model" --seconds "${long_seconds:-30}" # for the seams between windows
fi
if at_stage 7 "score"; then # by a classifier that has learned from the recordings, unless there is a --judge
    if [ -z "${judge:-}" ]; then
        learn "$judge_config" "$exp/judge" ${judge_settings:-}
        judge=$exp/judge/model
    fi
    systems=()
    for folder in "$exp"/sound/*/; do systems+=(--system "$(basename "$folder")=$folder"); done
    "$PYTHON" -m speechnar sound score "$data/test" "$exp/sound" --judge "$judge" --reference "$data/dev" \
        --train "$data/train" "${systems[@]}"
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    "$PYTHON" -m speechnar pack "$exp/model" "$exp/export" --card README.md
fi
