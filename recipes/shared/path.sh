# shellcheck shell=bash
# Sourced by each recipe's path.sh, in its folder: finds the repository and its interpreter (PYTHON=... names another).
repo=$(cd ../../.. && pwd)
export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$repo/.venv/bin/python" ]; then PYTHON=$repo/.venv/bin/python; fi
fi
export PYTHON
