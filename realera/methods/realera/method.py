"""RealEra as a method: its chain, each link as its stage of the graph runs it, and what they amount to."""

from pathlib import Path

from realera.erasures.artifact import Erasure, read_erasure
from realera.families import cross_attention
from realera.methods.realera.finish import finish
from realera.methods.realera.sampling import mine
from realera.methods.realera.solving import solve
from realera.methods.realera.training import align, save_training
from realera.methods.seam import Task
from realera.store.artifacts import write_safetensors
from realera.store.paths import REALERA, Place


def erase(task: Task, scratch: Path) -> Erasure:
    """Run the whole chain in a folder; files of links that are finished are replaced."""
    place = Place(scratch)
    task.table.write(place.prompts)
    write_safetensors({"latents": task.latents()}, place.latents)
    mine(place, task.preset, task.params)
    solve(place, task.params, task.concept, lambda: cross_attention.weights(task.pipe.unet))
    pipe, log = align(place, task.params, len(task.preset.targets), task.open_model, scratch, task.progress)
    save_training(place, pipe, log, task.params)
    finish(place, task.preset, task.params, task.family)
    return read_erasure(place.of(REALERA).erasure)
