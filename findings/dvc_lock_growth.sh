#!/usr/bin/env bash
# dvc 3.67.1: in a pipeline of many stages each stage takes longer to record than the one before it. After a stage the
# whole dvc.lock is parsed and written again by a YAML library in pure Python, so a run takes time with the square of
# the number of stages: here 80 of them, each with 20 dependencies, whose commands take no time. Few stages hide it.
#
# Output seen (seconds are one machine's, the factor is checked to be 3 or more):
#   dvc.lock: 8882 lines for 80 stages
#   a stage took 0.14 s among the first ten and 1.27 s among the last ten: 8.9 times as long
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
git init --quiet "$folder/repository"
cd "$folder/repository"
dvc init --quiet
dvc config core.autostage false

python - <<'PYTHON'
from pathlib import Path

import yaml

names = [f"code-{index}.txt" for index in range(20)]
for name in names:
    Path(name).write_text(name, encoding="utf-8")
params = {"items": [f"i{index}" for index in range(80)], "section": {f"key-{index}": index for index in range(20)}}
stage = {
    "matrix": {"item": "${items}"},
    "cmd": "date +%s.%N > out-${item.item}.txt",
    "deps": names,
    "params": ["section"],
    "outs": ["out-${item.item}.txt"],
}
Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"work": stage}}), encoding="utf-8")
PYTHON
dvc repro >log 2>&1
python - <<'PYTHON'
from itertools import pairwise
from pathlib import Path

times = [float(Path(f"out-i{index}.txt").read_text()) for index in range(80)]
steps = [after - before for before, after in pairwise(times)]
first, last = sum(steps[:10]) / 10, sum(steps[-10:]) / 10
print(f"dvc.lock: {len(Path('dvc.lock').read_text().splitlines())} lines for 80 stages")
print(f"a stage took {first:.2f} s among the first ten and {last:.2f} s among the last ten: "
      f"{last / first:.1f} times as long")
assert last >= 3 * first
PYTHON
