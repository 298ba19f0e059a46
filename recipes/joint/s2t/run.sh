#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# One encoder with CTC, CASS-NAT and Paraformer decoders, on Asterisk's five languages, AN4 and spoken digits.
# `./run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")"

stage=0 stop_stage=8 corpus_asterisk="" corpus_an4="" corpus_fsdd="" downloads=downloads
init_from=../../../speechnar/shipped/asterisk-s2t tokenizer=../../../speechnar/shipped/asterisk-s2t
aligner=../../../speechnar/shipped/asterisk-s2t # finds the words
before="conf/cif.yaml conf/joint.yaml conf/polish.yaml conf/words.yaml conf/heads.yaml" config=conf/decoders.yaml
exp=exp/joint data=data decoders="ctc cassnat cassnat-esa16 paraformer" overrides=""
recipe_options="stage stop_stage corpus_asterisk corpus_an4 corpus_fsdd downloads init_from tokenizer aligner"
recipe_options+=" before config exp data decoders overrides"
. ../../shared/parse_options.sh
. ../../shared/stages.sh
. ../../shared/path.sh
. ../../shared/cmd.sh
languages=(eng spa fra ita rus)

if at_stage 0 "download"; then
    data_stage 0 asterisk/s2t "$corpus_asterisk"
    data_stage 0 an4/asr "$corpus_an4"
    data_stage 0 fsdd/asr "$corpus_fsdd"
fi
if at_stage 1 "data directories"; then
    data_stage 1 asterisk/s2t "$corpus_asterisk"
    data_stage 1 an4/asr "$corpus_an4" --letters lower # as the other two corpora are
    data_stage 1 fsdd/asr "$corpus_fsdd"
fi
if at_stage 2 "single words"; then # the tokenizer, of single characters, is that of the model we start from
    for cut in 0 1; do
        "$PYTHON" local/cut_words.py "$aligner" "$data/asterisk/train" "$data/asterisk/train_words$cut" --seed "$cut"
    done
fi
if at_stage 3 "statistics"; then # of the data; those of the features are measured when training starts
    "$PYTHON" -m speechnar data describe "$tokenizer" "$data"/{asterisk,an4,fsdd}/{train,dev,test} |
        tee "$data/statistics.json"
    "$PYTHON" local/check_spelling.py "$data/statistics.json"
fi

train_dirs_of() { # CONFIG: the last ones also learn from single words
    local dirs="$data/asterisk/train, $data/an4/train, $data/fsdd/train"
    case $1 in
        */words.yaml) dirs+=", $data/asterisk/train_words0" ;;
        */heads.yaml | */decoders.yaml) dirs+=", $data/asterisk/train_words0, $data/asterisk/train_words1" ;;
    esac
    echo "[$dirs]"
}
dev_dirs="[$data/asterisk/dev, $data/an4/dev, $data/fsdd/dev]"
decode_sets() { # the language is never told; only CTC translates
    for set in asterisk an4 fsdd; do
        for decoder in $decoders; do # cassnat-esa16: of 16 sampled alignments, the best
            samples=()
            if [[ $decoder == *-esa* ]]; then samples=(--num-alignments "${decoder##*-esa}"); fi
            decode "$set/test" "$set.asr.$decoder" --decoder "${decoder%-esa*}" "${samples[@]}"
        done
    done
    for lang in "${languages[@]}"; do
        decode asterisk/test "asterisk.st_$lang.ctc" --task "st_$lang" --decoder ctc
    done
}
score_sets() {
    for set in asterisk an4 fsdd; do
        for decoder in $decoders; do score "$set/test" "$set.asr.$decoder" "$set.asr.$decoder"; done
    done
    for lang in "${languages[@]}"; do
        score asterisk/test "asterisk.st_$lang.ctc" "asterisk.st_$lang.ctc" --target "$lang"
    done
}
. ../../shared/train_stages.sh
