#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# A recogniser on Whisper's encoder for people whom it has never heard: Common Voice in any languages, Asterisk's prompts,
# AN4, spoken digits, LJSpeech, LibriSpeech and single readers, each where it is given. `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 downloads=downloads whisper=openai/whisper-base
# A path, `download`, or nothing: that part is left out. Common Voice: --corpus_commonvoice "eng=A.tar.gz,B fra=C"
corpus_commonvoice="" train_only="" exclude="" eval_minutes=30
corpus_asterisk=download corpus_an4=download corpus_fsdd=download corpus_ljspeech=download
corpus_librispeech=download corpus_kathleen=download corpus_kerstin=download
label_floor=-0.4 min_count=64 words="" translate_to="" repeat="spa=4 ita=4 rus=4"
init_from="" before=conf/whisper_ctc.yaml config=conf/whisper.yaml exp=exp/whisper data=data decoders="ctc cassnat paraformer transformer_ar" packed_decoders=cassnat,paraformer overrides=""
recipe_options="stage stop_stage downloads whisper corpus_commonvoice train_only exclude eval_minutes corpus_asterisk"
recipe_options+=" corpus_an4 corpus_fsdd corpus_ljspeech corpus_librispeech corpus_kathleen corpus_kerstin label_floor"
recipe_options+=" min_count words translate_to repeat init_from before config exp data decoders packed_decoders overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
github=https://github.com
declare -A urls=(
    [librispeech]=$github/MontrealCorpusTools/librispeech-demo/archive/3f226b2e1629aab7b755aa4ba42e3a0c10c8b216.tar.gz
    [kathleen]=$github/rhasspy/dataset-voice-kathleen/archive/c51cb971036a127359b43c621f26ca5081eab13e.tar.gz
    [kerstin]=$github/rhasspy/dataset-voice-kerstin/archive/f73127135cf80d6ef52aef6af58c49774f4fd625.tar.gz
)
declare -A recipes=([asterisk]=asterisk/s2t [an4]=an4/asr [fsdd]=fsdd/asr [ljspeech]=ljspeech/tts)
declare -A given=(
    [commonvoice]=$corpus_commonvoice [asterisk]=$corpus_asterisk [an4]=$corpus_an4 [fsdd]=$corpus_fsdd
    [ljspeech]=$corpus_ljspeech [librispeech]=$corpus_librispeech [kathleen]=$corpus_kathleen [kerstin]=$corpus_kerstin
)

from_recipe() { # STAGE PART [OPTION]...: the stage of the part's own recipe, unless the part is left out
    local corpus=${given[$2]}
    if [ "$corpus" = download ]; then
        data_stage "$1" "${recipes[$2]}" "" "${@:3}"
    elif [ -n "$corpus" ]; then
        data_stage "$1" "${recipes[$2]}" "$corpus" "${@:3}"
    fi
}
from_clips() { # PART LANGUAGE [OPTION]...: sound files with their texts, unless the part is left out
    local corpus=${given[$1]}
    if [ "$corpus" = download ]; then corpus=$downloads/$1.tar.gz; fi
    if [ -n "$corpus" ]; then
        "$PYTHON" local/prepare_clips.py "$corpus" "$data/$1" --name "$1" --language "$2" --unpack-to "$downloads" "${@:3}"
    fi
}
absolute() { # PATH,PATH...: as words
    local path
    for path in ${1//,/ }; do
        if [ -e "$path" ]; then path=$(realpath "$path"); fi
        printf '%s ' "$path"
    done
}
value_of() { # KEY KEY=VALUE...: the value of that key
    local pair
    for pair in "${@:2}"; do
        if [ "${pair%%=*}" = "$1" ]; then echo "${pair#*=}"; fi
    done
}
directories() { # SET...: the data directories of these names, of all parts that are there
    local part set
    for part in "$data"/commonvoice/* "$data"/{asterisk,an4,fsdd,ljspeech,librispeech,kathleen,kerstin}; do
        for set in "$@"; do
            if [ -e "$part/$set/wav.scp" ]; then echo "$part/$set"; fi
        done
    done
}
languages() { # that are learnt
    directories train labelled | while read -r folder; do cut -d' ' -f2 "$folder/utt2lang"; done | LC_ALL=C sort -u
}

if at_stage 0 "download"; then # Common Voice's site asks everybody to agree to its terms: fetch it by hand
    for part in "${!recipes[@]}"; do
        if [ "${given[$part]}" = download ]; then from_recipe 0 "$part"; fi
    done
    for part in "${!urls[@]}"; do
        if [ "${given[$part]}" = download ]; then
            "$PYTHON" -m speechnar data download "${urls[$part]}" "$downloads/$part.tar.gz"
        fi
    done
    if [ -n "$whisper" ]; then # other recipes take the data only
        "$PYTHON" local/get_whisper.py "$whisper" "$data/whisper" --unpack-to "$downloads"
    fi
fi
if at_stage 1 "data directories"; then
    for part in commonvoice asterisk an4 fsdd ljspeech librispeech kathleen kerstin; do
        if [ -z "${given[$part]}" ]; then echo "$0: without $part; --corpus_$part adds it" >&2; fi
    done
    if [ -n "$exclude" ]; then exclude=$(realpath "$exclude"); fi
    for pair in $train_only; do
        # shellcheck disable=SC2086 # KEY=VALUE are words
        if [ -z "$(value_of "${pair%%=*}" $corpus_commonvoice)" ]; then
            echo "$0: --train_only ${pair%%=*} needs releases of that language in --corpus_commonvoice" >&2
            exit 2
        fi
    done
    for pair in $corpus_commonvoice; do
        lang=${pair%%=*}
        # shellcheck disable=SC2086 # KEY=VALUE are words
        data_stage 1 commonvoice/asr "$(absolute "${pair#*=}")" --language "$lang" --exclude "$exclude" \
            --train_only "$(absolute "$(value_of "$lang" $train_only)")" --eval_minutes "$eval_minutes" \
            --data "$(realpath -m "$data/commonvoice/$lang")"
    done
    from_recipe 1 asterisk --text written
    from_recipe 1 an4 --letters lower # has capitals only
    from_recipe 1 fsdd
    from_recipe 1 ljspeech --last_clip LJ002-0160 # what follows is for evaluation
    from_clips librispeech eng --letters lower --test-speakers 27
    from_clips kathleen eng
    from_clips kerstin deu
fi
mapfile -t train_dirs < <(directories train labelled)
mapfile -t dev_parts < <(directories dev)
mapfile -t test_dirs < <(directories test)
if [ "$stop_stage" -gt 0 ] && [ ${#train_dirs[@]} = 0 ]; then
    echo "$0: needs at least one corpus; give --corpus_commonvoice or others, and begin with stage 1" >&2
    exit 2
fi
if at_stage 2 "labels and tokenizer"; then # of clips without text what Whisper is sure of; of its pieces those that occur
    "$PYTHON" local/get_whisper.py "$whisper" "$data/whisper" --unpack-to "$downloads"
    for folder in $(directories unlabelled); do
        "$PYTHON" local/label_clips.py "$data/whisper" "$folder" "${folder%unlabelled}labelled" --floor "$label_floor"
    done
    mapfile -t train_dirs < <(directories train labelled)
    mapfile -t langs < <(languages)
    read -ra translations <<<"${translate_to:+--translate-to $translate_to}"
    "$PYTHON" -m speechnar data tokenizer "${train_dirs[@]}" "$data/tokenizer" --cut "$data/whisper" \
        --min-count "$min_count" --languages "${langs[@]}" "${translations[@]}"
fi
if at_stage 3 "statistics and features"; then # what the frozen encoder makes of all sound that is learnt from, once
    "$PYTHON" -m speechnar data describe "$data/tokenizer" "${train_dirs[@]}" "${dev_parts[@]}" "${test_dirs[@]}" |
        tee "$data/statistics.json"
    first=${before:-$config}
    "${spread_cmd[@]}" "$PYTHON" -m speechnar data features "${first%% *}" "${train_dirs[@]}" "${dev_parts[@]}" \
        --missing --set "tokenizer=$data/tokenizer" --set "init_from=$data/whisper" "${engine[@]}"
fi

pretrained=$data/whisper
dev_dirs=$(yaml_list "${dev_parts[@]}")
train_dirs_of() { yaml_list "${train_dirs[@]}"; }
for lang in $(languages); do # of few hours
    # shellcheck disable=SC2086 # KEY=VALUE are words
    times=$(value_of "$lang" $repeat)
    if [ -n "$times" ]; then overrides+=" data.repeat.$lang=$times"; fi
done
for_each_hypothesis() { # COMMAND: of each test set by each decoder
    local folder decoder name
    for folder in "${test_dirs[@]}"; do
        folder=${folder#"$data"/} name=${folder%/test}
        for decoder in $decoders; do "$1" "$folder" "${name//\//-}.asr.$decoder"; done
    done
}
decode_one() { # SET NAME: the language is never told; ctc_words: with words, which ctc is without; cassnat-esa16: of 16
    local decoder=${2##*.} options=()
    case $decoder in
        ctc) options=(--word-weight 0) ;;
        *-esa*) options=(--num-alignments "${decoder##*-esa}") ;;
        *_beam*) options=(--beam-size "${decoder##*_beam}") ;;
    esac
    decoder=${decoder%-esa*} decoder=${decoder%_words}
    decode "$1" "$2" --decoder "${decoder%_beam*}" "${options[@]}"
}
score_one() { score "$1" "$2" "$2"; }
decode_sets() { for_each_hypothesis decode_one; }
score_sets() { for_each_hypothesis score_one; }
if at_stage 6 "words" && [ -n "$words" ]; then # as many of each language as the package wordfreq has counted, to favour
    "$PYTHON" local/list_words.py "$exp/model" --count "$words"
fi
. ../../shared/train_stages.sh
