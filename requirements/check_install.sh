#!/usr/bin/env bash
# Install speechnar into a fresh environment, with the lowest or the newest versions that pyproject.toml allows, and try
# what a new user does first, then the quick tests of imports, models, training and the command line.
# Usage: check_install.sh lowest-direct|highest; UV and PYTHON name the programs.
set -euo pipefail
resolution=$1
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$folder/venv/bin/python
export OMP_NUM_THREADS=1

install() {
    "${UV:-uv}" pip install --quiet --python "$python" --resolution "$resolution" "${root}[$1]"
}

"${UV:-uv}" venv --quiet --python "${PYTHON:-python3}" "$folder/venv"
cd "$folder" # so that what is installed is imported, not what lies in the clone
SECONDS=0
install media
echo "== $resolution, $("$python" --version): $(du -sm venv | cut -f1) MB for inference, installed in $SECONDS s"
"$python" "$root/recipes/asterisk/s2t/local/quickstart.py"
install media,train,eval,demo,dev
"${UV:-uv}" pip freeze --quiet --python "$python" | paste -sd ' '
cd "$root"
"$python" -m pytest -p no:cacheprovider -n 2 tests/test_architecture.py tests/test_optional_packages.py \
    tests/test_lock.py tests/unit/test_extras.py tests/unit/models/test_models.py tests/unit/train/test_run.py tests/unit/cli
