#!/usr/bin/env bash
# diffusers 0.42.1, without scipy: a checkpoint whose model_index.json names LMSDiscreteScheduler (as many of Stable
# Diffusion do) cannot be opened with another scheduler in its place, though from_pretrained takes components that
# replace a checkpoint's own: it compares the given scheduler with the stand-in class that diffusers keeps for what needs
# scipy, finds no base class, and ends in a TypeError about issubclass. The advice to install scipy comes only where
# nothing is given. What does work: scheduler=None, and the other one put in afterwards.
#
# Output seen:
#   its own scheduler: ImportError that names scipy
#   DDIMScheduler in its place: TypeError: issubclass() arg 2 must be a class, a tuple of classes, or a union
#   None in its place: opened
#
# Usage: findings/scheduler_stand_in.sh; `PYTHON` names an interpreter that has torch and numpy. Exits with 1 if the
# version behaves otherwise. Fetches packages only.
set -euo pipefail

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$work/home" PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m pip install --quiet --no-deps --target "$work/packages" diffusers==0.42.1
cat >"$work/open.py" <<'PYTHON'
import sys
from pathlib import Path

sys.modules["scipy"] = None  # as where it is not installed
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

folder = Path(sys.argv[1])
unet = UNet2DModel(
    sample_size=8,
    block_out_channels=(8,),
    norm_num_groups=4,
    layers_per_block=1,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
)
DDPMPipeline(unet, DDIMScheduler()).save_pretrained(folder)
for name in ("model_index.json", "scheduler/scheduler_config.json"):
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("DDIMScheduler", "LMSDiscreteScheduler"))


def outcome(**replaced):
    try:
        DDPMPipeline.from_pretrained(folder, **replaced)
    except Exception as error:
        return type(error), " ".join(str(error).split())
    return None, "opened"


own, text = outcome()
print(f"its own scheduler: {own.__name__} that names {'scipy' if 'scipy' in text else 'nothing'}")
replaced, text_replaced = outcome(scheduler=DDIMScheduler())
print(f"DDIMScheduler in its place: {replaced and replaced.__name__}: {text_replaced}")
left_out, text_left_out = outcome(scheduler=None)
print(f"None in its place: {text_left_out}")
sys.exit(not (own is ImportError and "scipy" in text and replaced is TypeError and left_out is None))
PYTHON
PYTHONPATH="$work/packages" "$python" "$work/open.py" "$work/model" 2>"$work/log" || { cat "$work/log"; exit 1; }
echo "as described"
