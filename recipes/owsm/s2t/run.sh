#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# OWSM-CTC as published, on several corpora at once: LibriSpeech, AISHELL-1, MuST-C in any languages, Common Voice in
# any languages, each where it is given, and data directories of one's own. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=1 stop_stage=8 downloads=downloads config=conf/train.yaml exp=exp/owsm data=data vocab_size=50000 overrides=""
# Paths; of MuST-C and Common Voice KEY=VALUE: --corpus_mustc "deu=A fra=B" --corpus_commonvoice "eng=A.tar.gz,B fra=C"
corpus_librispeech="" corpus_aishell1="" corpus_mustc="" corpus_commonvoice="" more="" check=complete
parts="train-clean-100 train-clean-360 train-other-500"
recipe_options="stage stop_stage downloads config exp data vocab_size overrides corpus_librispeech corpus_aishell1"
recipe_options+=" corpus_mustc corpus_commonvoice more check parts"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
train_dirs=() dev_parts=() test_dirs=() langs=() targets=()
read -ra more_dirs <<<"$more" # --more "DIR/train DIR/train": with utt2lang, learnt from beside the others

take() { # LANGUAGE FOLDER TEST...: its train and dev, and these test sets
    langs+=("$1") train_dirs+=("$data/$2/train") dev_parts+=("$data/$2/dev")
    local set
    for set in "${@:3}"; do test_dirs+=("$2/$set"); done
}
if at_stage 0 "download"; then
    echo "$0: each corpus has a recipe or a site that fetches it; name what is there by --corpus_NAME (see README.md)" >&2
    exit 2
fi
if [ -n "$corpus_librispeech" ]; then take eng librispeech test-clean test-other; fi
if [ -n "$corpus_aishell1" ]; then take cmn aishell1 test; fi
for pair in $corpus_mustc; do
    targets+=("${pair%%=*}")
    take eng "mustc/${pair%%=*}" tst-COMMON
done
for pair in $corpus_commonvoice; do take "${pair%%=*}" "commonvoice/${pair%%=*}" test; done
if [ ${#train_dirs[@]} = 0 ]; then
    echo "$0: needs at least one corpus: --corpus_librispeech, --corpus_aishell1, --corpus_mustc, --corpus_commonvoice" >&2
    exit 2
fi
if at_stage 1 "data directories"; then
    if [ -n "$corpus_librispeech" ]; then
        data_stage 1 librispeech/asr "$corpus_librispeech" --parts "$parts" --check "$check"
    fi
    if [ -n "$corpus_aishell1" ]; then data_stage 1 aishell1/asr "$corpus_aishell1" --check "$check"; fi
    for pair in $corpus_mustc; do
        data_stage 1 mustc/st "${pair#*=}" --target "${pair%%=*}" --data "$(realpath -m "$data/mustc/${pair%%=*}")"
    done
    for pair in $corpus_commonvoice; do
        releases=()
        for release in ${pair#*=}; do releases+=("$(realpath -m "$release")"); done
        data_stage 1 commonvoice/asr "${releases[*]}" --language "${pair%%=*}" \
            --data "$(realpath -m "$data/commonvoice/${pair%%=*}")"
    done
fi
mapfile -t langs < <(printf '%s\n' "${langs[@]}" "${targets[@]}" | LC_ALL=C sort -u)
if at_stage 2 "tokenizer"; then
    "$PYTHON" -m speechnar data tokenizer "${train_dirs[@]}" "${more_dirs[@]}" "$data/tokenizer" \
        --vocab-size "$vocab_size" --languages "${langs[@]}" --translate-to "${targets[@]}"
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "${train_dirs[@]}" "${more_dirs[@]}" "${dev_parts[@]}" |
        tee "$data/statistics.json"
fi

dev_dirs=$(yaml_list "${dev_parts[@]}")
train_dirs_of() { yaml_list "${train_dirs[@]}" "${more_dirs[@]}"; }
for_each_set() { # COMMAND: of each test set, recognition, and translation where there is one
    local folder name
    for folder in "${test_dirs[@]}"; do
        name=${folder//\//-}
        "$1" "$folder" "$name.asr" asr
        if [[ $folder == mustc/* ]]; then
            local target=${folder#mustc/}
            "$1" "$folder" "$name.st_${target%/*}" "st_${target%/*}"
        fi
    done
}
decode_one() { decode "$1" "$2" --task "$3"; }
score_one() { # translations against their target
    if [ "$3" = asr ]; then score "$1" "$2" "$2"; else score "$1" "$2" "$2" --target "${3#st_}"; fi
}
decode_sets() { for_each_set decode_one; }
score_sets() { for_each_set score_one; }
. ../../shared/train_stages.sh
