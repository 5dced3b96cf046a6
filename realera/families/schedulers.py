"""The samplers' names: which scheduler of diffusers each one is."""

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

from realera.settings.errors import ModelError

MODEL_SCHEDULER = "model"
"""The name of the scheduler that is saved with the model."""

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


def use_scheduler(pipe: StableDiffusionPipeline, name: str) -> None:
    """Give the pipeline the named scheduler, with the noise schedule that it was trained on.

    Args:
        pipe: changed in place.
        name: `model` keeps the scheduler saved with the model; otherwise a key of SCHEDULERS.

    Raises:
        ModelError: the name is not known.
    """
    if name == MODEL_SCHEDULER:
        return
    if name not in SCHEDULERS:
        raise ModelError(f"scheduler: found {name!r}; accepted: model, {', '.join(SCHEDULERS)}")
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config, **SCHEDULER_OPTIONS.get(name, {}))
