"""A program that trains a toy with `pretrain.training.train`, for tests that start, kill and restart it.

    python toy_training.py FOLDER '{"steps": 40, "num_processes": 2, "joined": false, "pause": 0.0}'

It leaves the returned weights in FOLDER/weights.safetensors and the log in FOLDER/returned.csv; checkpoint and
log of the loop are in FOLDER/scratch. Its processes write their ids to FOLDER/pid-*.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pretrain.config import Training
from pretrain.training import train
from realera.store import seeds
from realera.store.artifacts import atomic_path, write_safetensors

SETTINGS = {"learning_rate": 0.05, "weight_decay": 0.1, "warmup_steps": 5}
BATCH, WIDTH, SEED = 8, 4, 3


class ToyTask:
    """Learns a linear map through two layers and a norm whose weight stays as it is."""

    def __init__(self, device: torch.device, joined: int, pause: float):
        self.joined, self.pause, self.step = joined, pause, 0
        self.module = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1)).to(device)
        self.module[2].weight.requires_grad_(False)

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """With `joined` = n the batches that n ranks would draw at this step, together."""
        time.sleep(self.pause)
        ranks = [seeds.generator(SEED, self.step, rank) for rank in range(self.joined)] or [generator]
        inputs = torch.cat([torch.randn(BATCH, WIDTH, generator=own) for own in ranks])
        self.step += 1
        target = inputs @ torch.arange(1.0, WIDTH + 1)[:, None]
        error = (self.module(inputs) - target).square().mean()
        return {"loss": error, "error": error.detach()}


def make_task(device: torch.device, folder: str, joined: int, pause: float) -> ToyTask:
    Path(folder, f"pid-{os.getpid()}").touch()
    return ToyTask(device, joined, pause)


def main() -> None:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    factory = partial(make_task, folder=str(folder), joined=options.get("joined", 0), pause=options.get("pause", 0.0))
    training = Training(
        seed=SEED, steps=options["steps"], batch_size=BATCH, save_every=options.get("save_every", 10), **SETTINGS
    )
    weights, log = train(factory, training, scratch, options["num_processes"], options.get("ema_decay", 0.0))
    log.to_csv(folder / "returned.csv", index=False)
    with atomic_path(folder / "weights.safetensors") as path:
        write_safetensors(weights, path)


if __name__ == "__main__":
    main()
