# shellcheck shell=bash disable=SC2154,SC2086 # names of configurations are words
# Sourced at the end of the run.sh of a text translation recipe: stages 2 to 8, from directories of texts to scored and
# exported systems. Of its options it reads source and target, ISO 639-3, vocab_size, of both languages together, teacher
# and students, configurations (CONFIG:NAME begins with the weights of $exp/NAME, others with the teacher's),
# token_reward and raw_share, of the teacher's translations that the students learn, systems, a file that says what
# stage 6 decodes, sets, names of directories in $data, limit, of their sentences, threads and overrides.
read -ra settings <<<"$overrides" # --overrides "train.max_steps=100 train.seed=1"
direction=(--source "$source" --target "$target")

learn() { # CONFIG TRAIN [KEY=VALUE]...: to $exp/NAME
    "${train_cmd[@]}" "$PYTHON" -m speechnar train "$1" --exp "$exp/$(basename "$1" .yaml)" "data.train=$2" \
        "data.dev=$data/dev" "data.source=$source" "data.target=$target" "tokenizer=$data/tokenizer" "${@:3}" \
        "${settings[@]}"
}

if at_stage 2 "tokenizer"; then # one for both languages, whose embeddings are shared
    "$PYTHON" -m speechnar data tokenizer "$data/train" "$data/tokenizer" --vocab-size "$vocab_size" \
        --model-type bpe --translate-to "$source" "$target"
fi
if at_stage 3 "statistics"; then
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "$data"/{train,dev,test} | tee "$data/statistics.json"
fi
teacher_exp=$exp/$(basename "$teacher" .yaml)
if at_stage 4 "train"; then # the teacher; then the others, on its translations of the training set and from its encoder
    learn "$teacher" "$data/train"
    "${decode_cmd[@]}" "$PYTHON" -m speechnar data distil "$teacher_exp/model" "$data/train" "$exp/distilled" \
        "${direction[@]}" --token-reward "$token_reward" --raw-share "$raw_share"
    for student in $students; do
        first=$teacher_exp
        if [[ $student == *:* ]]; then first=$exp/${student#*:}; fi
        learn "${student%:*}" "$exp/distilled" "init_from=$first/model"
    done
fi

# Training ends by exporting its best checkpoint or the average, whichever is better; this is for one that was stopped.
if at_stage 5 "average"; then
    for config in "$teacher" $students; do
        folder=$exp/$(basename "${config%:*}" .yaml)
        if [ ! -e "$folder/model/model.safetensors" ]; then "$PYTHON" -m speechnar average "$folder"; fi
    done
fi
if at_stage 6 "decode"; then # every system to a log of its own, word by word
    grep -v '^#' "$systems" | while read -r name model options; do
        read -ra given <<<"${options//EXP/$exp}"
        for set in $sets; do
            "${decode_cmd[@]}" "$PYTHON" -m speechnar mt decode "$exp/$model/model" "$data/$set" \
                "$exp/logs/$set/$name.jsonl" "${direction[@]}" --limit "$limit" --threads "$threads" "${given[@]}"
        done
    done
fi
if at_stage 7 "score"; then # a line of JSON for each system, and a plot of all
    for set in $sets; do
        "$PYTHON" -m speechnar mt score "$data/$set" "$exp/logs/$set"/*.jsonl --target "$target" \
            --plot "$exp/$set.scores.png" | tee "$exp/$set.scores.jsonl"
    done
fi
if at_stage 8 "export"; then # half the size, with this recipe's README as the model card
    for config in "$teacher" $students; do
        name=$(basename "${config%:*}" .yaml)
        "$PYTHON" -m speechnar pack "$exp/$name/model" "$exp/export/$name" --card README.md
    done
fi
