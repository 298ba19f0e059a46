# shellcheck shell=bash
# Sourced by run.sh, in the recipe's folder: finds the repository and its interpreter (PYTHON=... names another).
# A path.sh of the recipe's own, if it has one, adds what only that recipe needs.
repo=$(cd ../../.. && pwd)
export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$repo/.venv/bin/python" ]; then PYTHON=$repo/.venv/bin/python; fi
fi
export PYTHON
# shellcheck source=/dev/null
if [ -e ./path.sh ]; then . ./path.sh; fi
