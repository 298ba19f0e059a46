# shellcheck shell=bash source-path=SCRIPTDIR
# Environment of this recipe; add what only it needs.
. ../../shared/path.sh
