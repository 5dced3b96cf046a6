#!/usr/bin/env bash
# onnxruntime 1.32.0 (Linux): merely importing it writes an id of the machine and a data base of events into the user's
# home. diffusers 0.42.1 imports it, wherever it is installed, as soon as it loads a pipeline of any kind: whoever has it
# for something else gets both files by drawing a picture. ORT_DISABLE_TELEMETRY=1, set before the import, stops that;
# ORT_TELEMETRY_DISABLED=1 does not.
#
# Output seen:
#   import onnxruntime: deviceid, onnxruntime.db
#   the same with ORT_TELEMETRY_DISABLED=1: deviceid, onnxruntime.db
#   the same with ORT_DISABLE_TELEMETRY=1: nothing
#   diffusers loads a pipeline: deviceid, onnxruntime.db
#
# Usage: findings/onnxruntime_telemetry.sh; `PYTHON` names an interpreter that has torch and numpy. Exits with 1 if the
# versions behave otherwise. Fetches packages only.
set -euo pipefail

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m pip install --quiet --no-deps --target "$work/packages" diffusers==0.42.1 onnxruntime==1.32.0
cat >"$work/load.py" <<'PYTHON'
import sys
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

unet = UNet2DModel(
    sample_size=8,
    block_out_channels=(8,),
    norm_num_groups=4,
    layers_per_block=1,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
)
DDPMPipeline(unet, DDIMScheduler()).save_pretrained(sys.argv[1])
DDPMPipeline.from_pretrained(sys.argv[1])
PYTHON

written() { # name of a home, then the environment and the arguments of Python
    local home="$work/$1"
    mkdir "$home"
    env PYTHONPATH="$work/packages" HOME="$home" "$2" "$python" "${@:3}" >/dev/null 2>"$work/log" || cat "$work/log" >&2
    local found
    found=$(cd "$home" && find .cache/Microsoft -type f -printf '%f\n' 2>/dev/null | sort | paste -sd, | sed 's/,/, /g')
    echo "${found:-nothing}"
}
plain=$(written plain A=0 -c 'import onnxruntime')
other=$(written other ORT_TELEMETRY_DISABLED=1 -c 'import onnxruntime')
disabled=$(written disabled ORT_DISABLE_TELEMETRY=1 -c 'import onnxruntime')
loading=$(written loading A=0 "$work/load.py" "$work/model")
echo "import onnxruntime: $plain"
echo "the same with ORT_TELEMETRY_DISABLED=1: $other"
echo "the same with ORT_DISABLE_TELEMETRY=1: $disabled"
echo "diffusers loads a pipeline: $loading"
both="deviceid, onnxruntime.db"
[ "$plain" = "$both" ] && [ "$other" = "$both" ] && [ "$disabled" = nothing ] && [ "$loading" = "$both" ]
echo "as described"
