# shellcheck shell=bash disable=SC2034,SC2154,SC2317,SC2329 # of cmd.sh; what is defined here stands in for commands
# Sourced by cmd.sh for --dry-run: commands are noted with their stage instead of being run, what changes files does
# nothing, and at the end plan.py prints what is noted with what it takes. A recipe that another one calls notes for it.
real_python=$PYTHON
PYTHON=would_run
if [ ${#train_cmd[@]} != 0 ]; then train_cmd=(would_start "${train_cmd[@]}"); fi
if [ ${#decode_cmd[@]} != 0 ]; then decode_cmd=(would_start "${decode_cmd[@]}"); fi
if [ ${#spread_cmd[@]} != 0 ]; then spread_cmd=(would_start "${spread_cmd[@]}"); fi

would_start() { # WORD...: note a command
    local word line=${dry_stage:-}
    for word in "$@"; do line+=$'\x1f'${word/#would_run/$real_python}; done
    echo "$line" >>"$DRY_RUN_NOTES"
}
would_run() { would_start "$real_python" "$@"; }
rm() { :; }
mkdir() { :; }
cp() { :; }
mv() { :; }
tee() { cat >/dev/null; }

if [ -z "${DRY_RUN_NOTES:-}" ]; then
    DRY_RUN_NOTES=$(mktemp)
    export DRY_RUN_NOTES
    dry_parts=${parts:-} # stages have words of that name, too
    print_plan() {
        if [ "$1" = 0 ]; then
            "$real_python" "$repo/recipes/shared/plan.py" "$DRY_RUN_NOTES" --recipe "$PWD" --parts "$dry_parts" \
                --devices "$((processes * machines))"
        fi
        command rm -f "$DRY_RUN_NOTES"
    }
    trap 'print_plan $?' EXIT
fi
