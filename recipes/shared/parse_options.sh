# shellcheck shell=bash disable=SC2034 # the stages use dry_run
# Sourced by run.sh: `--name VALUE` on its command line overrides $name, for the names in $recipe_options. --dry-run
# runs nothing: it prints the commands, and what each will take (dry_run.sh).
dry_run=""
while [ $# -gt 0 ]; do
    if [ "$1" = --dry-run ]; then
        dry_run=yes
        shift
        continue
    fi
    name=${1#--}
    name=${name//-/_}
    if [ "$1" = --help ]; then
        echo "usage: $0 [--OPTION VALUE]...; the options and what they are by default:"
        for name in ${recipe_options:?}; do echo "  --$name '${!name}'"; done
        echo "  --dry-run: what would be run, and what it takes"
        exit 0
    elif [[ $1 != --* || " ${recipe_options:?} " != *" $name "* ]]; then
        echo "$0: unknown option '$1'; known are: --${recipe_options// / --}" >&2
        exit 2
    elif [ $# -lt 2 ]; then
        echo "$0: option $1 needs a value" >&2
        exit 2
    fi
    printf -v "$name" '%s' "$2"
    shift 2
done
