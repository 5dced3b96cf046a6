"""The samplers' names: which scheduler of diffusers each one is."""

from typing import Any

import diffusers
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
)

from realera.settings.errors import ModelError

MODEL_SCHEDULER = "model"
"""The name of the scheduler that is saved with the model."""

DEFAULT_SCHEDULER = "ddim"
"""Takes the place of a model's own where that cannot be had and no other is asked for."""

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmsolver": DPMSolverMultistepScheduler,
}
SCHEDULER_OPTIONS: dict[str, dict[str, bool]] = {
    "pndm": {"skip_prk_steps": True},  # as every Stable Diffusion has it
    "ddim": {"clip_sample": False},  # latents have no bounds; another scheduler's configuration does not say so
}
"""What a scheduler is given beyond the model's own configuration."""


def missing_packages(class_name: str | None) -> list[str]:
    """Return the packages without which diffusers has no such scheduler; LMSDiscreteScheduler needs scipy, say."""
    found = getattr(diffusers, class_name or "", None)
    return [name for name in getattr(found, "_backends", ()) if name != "torch"]  # only stand-ins have `_backends`


def from_config(name: str, config: Any) -> SchedulerMixin:
    """Return the named scheduler with another's noise schedule.

    Args:
        name: a key of SCHEDULERS.
        config: the other's.
    """
    found: SchedulerMixin = SCHEDULERS[name].from_config(config, **SCHEDULER_OPTIONS.get(name, {}))
    return found


def check_scheduler(name: str) -> None:
    """Refuse a name that is none.

    Raises:
        ModelError: it is none.
    """
    if name != MODEL_SCHEDULER and name not in SCHEDULERS:
        raise ModelError(f"scheduler: found {name!r}; accepted: {MODEL_SCHEDULER}, {', '.join(SCHEDULERS)}")


def use_scheduler(pipe: StableDiffusionPipeline, name: str) -> None:
    """Give the pipeline the named scheduler, with the noise schedule that it was trained on.

    Args:
        pipe: changed in place.
        name: `model` keeps the scheduler saved with the model; otherwise a key of SCHEDULERS.

    Raises:
        ModelError: the name is not known.
    """
    check_scheduler(name)
    if name != MODEL_SCHEDULER:
        pipe.scheduler = from_config(name, pipe.scheduler.config)
