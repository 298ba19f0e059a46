#!/usr/bin/env bash
# Install speechnar into a fresh environment, with the lowest or the newest versions that pyproject.toml allows, and try
# what a new user does first: the quickstart, the imports, the command line.
# Usage: check_install.sh lowest-direct|highest; UV and PYTHON name the programs.
set -euo pipefail
resolution=$1
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$folder/venv/bin/python
export OMP_NUM_THREADS=1

"${UV:-uv}" venv --quiet --python "${PYTHON:-python3}" "$folder/venv"
"${UV:-uv}" pip install --quiet --python "$python" --resolution "$resolution" "$root[media,recipes]"
cd "$folder" # so that what is installed is imported, not what lies in the clone
echo "== $resolution, $("$python" --version), what inference needs: $(du -sm venv | cut -f1) MB"
"${UV:-uv}" pip freeze --quiet --python "$python" | grep -vE '^(nvidia|cuda|speechnar)' | paste -sd ' '
"$python" "$root/recipes/asterisk/s2t/local/quickstart.py"
venv/bin/speechnar models
