#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR disable=SC2034 # what stages of synthesis read
# English in any voice: readers, speakers of Common Voice, and synthetic speech of Kokoro, each where it is given, to one
# ARDiT of many voices at 24 kHz. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 downloads=downloads
# A path, `download`, or nothing: that part is left out. Common Voice: archives or folders of English.
corpus_commonvoice="" train_only="" exclude="" eval_minutes=30
corpus_kathleen=download corpus_ljspeech=download corpus_librispeech=download corpus_an4=download
# Clips of Common Voice are learned from if DNSMOS thinks so well of them; what it thought is kept in $data/opinions.tsv.
dnsmos_floor=2.8
# Synthetic speech: a folder of Kokoro's voices (*.bin), and files of more texts, one a line.
kokoro_voices="" synthetic_hours=3 texts=""
vocoder_configs=conf/vocos.yaml vocoder="" autoencoder="" config=conf/ardit.yaml
one_step=conf/matching.yaml exp=exp/ardit data=data judge="" verifier="" overrides=""
recipe_options="stage stop_stage downloads corpus_commonvoice train_only exclude eval_minutes corpus_kathleen corpus_ljspeech"
recipe_options+=" corpus_librispeech corpus_an4 dnsmos_floor kokoro_voices synthetic_hours texts vocoder_configs vocoder"
recipe_options+=" autoencoder config one_step exp data judge verifier overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh

joint() { # STAGE: that of the recogniser's recipe, which knows these corpora, for our $data
    local paths=() path releases=""
    for path in $corpus_commonvoice; do paths+=("$(realpath "$path")"); done
    if [ ${#paths[@]} -gt 0 ]; then releases="eng=$(IFS=,; echo "${paths[*]}")"; fi
    paths=()
    for path in $train_only; do paths+=("$(realpath "$path")"); done
    ../../joint/s2t/run.sh --stage "$1" --stop_stage "$1" --data "$(realpath -m "$data")" \
        --downloads "$(realpath -m "$downloads")" --whisper "" --corpus_asterisk "" --corpus_fsdd "" --corpus_kerstin "" \
        --corpus_commonvoice "$releases" --train_only "${paths[*]:+eng=$(IFS=,; echo "${paths[*]}")}" \
        --eval_minutes "$eval_minutes" --exclude "${exclude:+$(realpath "$exclude")}" --corpus_kathleen "$(given "$corpus_kathleen")" \
        --corpus_ljspeech "$(given "$corpus_ljspeech")" --corpus_librispeech "$(given "$corpus_librispeech")" \
        --corpus_an4 "$(given "$corpus_an4")"
}
given() { # CORPUS: as a path, whatever the directory
    if [ -e "$1" ]; then realpath "$1"; else echo "$1"; fi
}
present() { # DIRECTORY...: those that are there, of $data
    local name
    for name in "$@"; do
        if [ -e "$data/$name/wav.scp" ]; then printf '%s ' "$name"; fi
    done
}

if at_stage 0 "download"; then joint 0; fi # Common Voice, Kokoro's voices: by hand
if at_stage 1 "data directories"; then
    joint 1
    if [ -e "$data/commonvoice/eng/train/wav.scp" ]; then
        "$PYTHON" local/choose_clips.py "$data/commonvoice/eng/train" "$data/commonvoice/eng/chosen" \
            --opinions "$data/opinions.tsv" --floor "$dnsmos_floor"
    fi
    # shellcheck disable=SC2046,SC2086 # names are words
    "$PYTHON" local/take_references.py "$data" $(present librispeech/test commonvoice/eng/test)
    if [ -n "$kokoro_voices" ]; then
        # shellcheck disable=SC2046,SC2086
        "$PYTHON" local/speak_kokoro.py "$data" "$kokoro_voices" --hours "$synthetic_hours" --texts $texts \
            --model "$downloads/kokoro.onnx"
    fi
fi

train_dirs=$(present kokoro kathleen/train ljspeech/train commonvoice/eng/chosen librispeech/train an4/train)
dev_dirs=$(present kathleen/dev ljspeech/dev librispeech/dev)
vocoder_dirs=$(present kathleen/train ljspeech/train commonvoice/eng/chosen kokoro) # others have nothing above 8 kHz
tokenizer_dirs=$train_dirs
test_dir=test voices=voices vocoder_start=codec
if [ "$stop_stage" -gt 1 ] && [ -z "$train_dirs" ]; then
    echo "$0: needs at least one corpus; give --corpus_kathleen or others, and begin with stage 1" >&2
    exit 2
fi
. ../../shared/synthesis_stages.sh
