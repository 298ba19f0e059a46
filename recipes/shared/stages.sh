# shellcheck shell=bash disable=SC2034 # dry_run.sh reads dry_stage
# Sourced by run.sh: `if at_stage N "title"; then ...` runs a stage inside [$stage, $stop_stage] and logs its title.
# 0 download, 1 data directories, 2 tokenizer, 3 statistics, 4 train, 5 average, 6 decode, 7 score, 8 export.
for number in "${stage:?}" "${stop_stage:?}"; do
    if ! [[ $number =~ ^[0-8]$ ]]; then
        echo "$0: stages are 0 to 8, got '$number'" >&2
        exit 2
    fi
done

at_stage() {
    if [ "$stage" -gt "$1" ] || [ "$stop_stage" -lt "$1" ]; then return 1; fi
    if [ -n "${dry_run:-}" ]; then
        dry_stage="$1: $2"
    else
        echo "$(date '+%H:%M:%S') stage $1: $2" >&2
    fi
}

yaml_list() { # PATH...
    local IFS=,
    echo "[$*]"
}

data_stage() { # NUMBER RECIPE CORPUS [OPTION]...: a stage of that recipe, for our $data/NAME
    local name=${2%/*} corpus=$3
    # A path is ours; anything else is a name that the recipe looks for in $SPEECHNAR_CORPORA.
    if [ -e "$corpus" ]; then corpus=$(realpath "$corpus"); fi
    PYTHON=${real_python:-$PYTHON} "../../$2/run.sh" --stage "$1" --stop_stage "$1" --corpus "$corpus" \
        --data "$(realpath -m "${data:?}/$name")" --downloads "$(realpath -m "${downloads:?}/$name")" ${dry_run:+--dry-run} "${@:4}"
}
