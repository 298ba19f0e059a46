#!/usr/bin/env bash
# Install speechnar into fresh environments, with the lowest or the newest versions that pyproject.toml allows, and try
# what a new user does first, then the quick tests of what calls other packages, with all extras; but for espnet, which
# holds torch back, and so has an environment of its own.
# Usage: check_install.sh lowest-direct|highest; UV and PYTHON name the programs.
set -euo pipefail
resolution=$1
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1

create() {
    "${UV:-uv}" venv --quiet --python "${PYTHON:-python3}" "$folder/$1"
    python=$folder/$1/bin/python
}

install() {
    "${UV:-uv}" pip install --quiet --python "$python" --resolution "$resolution" "${root}[$1]"
}

cd "$folder" # so that what is installed is imported, not what lies in the clone
create espnet
install espnet
"$python" -c 'import espnet2.tasks.s2t_ctc, torchaudio' 2>/dev/null
rm -r espnet

create venv
SECONDS=0
install media
echo "== $resolution, $("$python" --version): $(du -sm venv | cut -f1) MB for inference, installed in $SECONDS s"
"$python" "$root/recipes/asterisk/s2t/local/quickstart.py"
install media,train,eval,demo,serve,onnx,t5,modelscope,scale,docs,dev
"${UV:-uv}" pip freeze --quiet --python "$python" | paste -sd ' '
cd "$root"
"$python" -m pytest -p no:cacheprovider -n 2 --dist worksteal -m "not slow" tests/test_architecture.py \
    tests/test_optional_packages.py tests/test_lock.py tests/demo/test_tabs.py tests/unit/test_extras.py \
    tests/unit/audio/test_io.py tests/unit/cli tests/unit/evaluation tests/unit/export tests/unit/interop/test_modelscope.py \
    tests/unit/interop/test_repository.py tests/unit/interop/test_transformers.py tests/unit/metrics \
    tests/unit/models/test_models.py tests/unit/models/tts/test_text_encoder.py tests/unit/scale tests/unit/serve \
    tests/unit/train/test_run.py
