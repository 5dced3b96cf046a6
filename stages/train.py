"""Stage train: the LoRA that aligns the erased model's noise predictions (equations 8 and 9)."""

from functools import partial

import torch
import typer

from realera.families.stable_diffusion import open_pipeline
from realera.methods.realera.training import align, save_training
from realera.runtime import devices, launch
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.settings.presets import load_preset
from realera.store.paths import REALERA, place
from realera.store.scratch import fingerprint


def main(concept: str) -> None:
    """Write lora/, trained.json and loss.csv of RealEra's erasure."""
    with stage_errors():
        params = load_params()
        count = params.lora.num_processes
        if count > 1 and launch.num_processes() == 1:
            device = str(devices.resolve_device(params.model.device))
            devices.check_num_processes("lora.num_processes", count, device, torch.cuda.device_count())
            launch.on_processes(work, (concept, params), count, "lora.num_processes")
        else:
            work(concept, params)


def work(concept: str, params: Params) -> None:
    """Train as one process of a launch, or alone; the main one writes."""
    shared = {"num_processes": launch.num_processes()}  # which changes the last bits of what is trained
    lora = params.lora.model_dump(exclude={"gradient_checkpointing"}) | shared
    settings = [lora, params.sampler.model_dump(), params.model.model_dump()]
    files, own = place(concept), place(concept).of(REALERA)
    key = fingerprint(settings, [files.prompts, own.samples, own.kv_patch, files.latents])
    with launch.shared_scratch("train", key, params.model.device) as folder:
        num_targets = len(load_preset(concept).targets)
        pipe, log = align(
            files, params, num_targets, partial(open_pipeline, **params.model.model_dump(), scheduler=None), folder
        )
        if launch.is_main():
            save_training(files, pipe, log, params)


if __name__ == "__main__":
    typer.run(main)
