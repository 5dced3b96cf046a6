"""Images a second beside the bare UNet's rate on the same batch, and beside one prompt at a time."""

import statistics
from collections.abc import Callable

import torch
from diffusers import StableDiffusionPipeline

from benchmarks.sizes import PROJECT, default
from benchmarks.timing import Section, Settings, figure, in_turn, timed
from realera.drawing.batch import draw
from realera.families.schedulers import use_scheduler
from realera.families.stable_diffusion import open_pipeline
from realera.store import seeds

AIM = 0.9
WORDS = ("airplane", "cat", "dog", "ship", "horse", "truck", "house", "robot")


def measure(settings: Settings) -> Section:
    """Measure one batch with the size (quick: a quarter), steps and guidance of params.yaml."""
    params = default("generate")
    batch = settings.pick(2, params["batch_size"] // 4, params["batch_size"])
    steps = settings.pick(2, params["num_inference_steps"], params["num_inference_steps"])
    guidance = params["guidance_scale"]
    pipe = open_pipeline(PROJECT / "data/models/tiny-sd", device="cpu")
    use_scheduler(pipe, params["scheduler"])
    prompts = [f"a photo of the {WORDS[index % len(WORDS)]}" for index in range(batch)]
    tasks = {
        "ours": lambda: list(draw(pipe, prompts, range(batch), steps, guidance, batch)),
        "bare UNet, the same batch": bare(pipe, batch, steps),
        "bare UNet, text encoder and VAE decoder": bare(pipe, batch, steps, is_whole=True),
        "one prompt at a time": lambda: one_at_a_time(pipe, prompts, steps, guidance),
    }
    found = in_turn([timed(work) for work in tasks.values()], settings.rounds)
    ours, *others = dict(zip(tasks, found, strict=True)).items()
    rate = batch / statistics.median(ours[1])
    section = Section()
    for against, other in others:
        is_bare = against.endswith("batch")
        note = f"{rate:.2f} images a second; the text encoder and the VAE are in ours only" if is_bare else ""
        what = f"{batch} images, {steps} steps, tiny-sd"
        line = figure(what, against, (ours[1], other), "times as fast", AIM if is_bare else None, note)
        section.add(line)
    return section


def bare(pipe: StableDiffusionPipeline, batch: int, steps: int, is_whole: bool = False) -> Callable[[], None]:
    """Return the UNet's passes of a batch with guidance, twice the batch a step.

    Args:
        pipe: the model.
        batch: images.
        steps: denoising steps.
        is_whole: also the text encoder's passes and the VAE decoder's.
    """
    generator = seeds.generator("benchmarks", "bare")
    unet, length = pipe.unet, pipe.tokenizer.model_max_length
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.randn(2 * batch, 4, side, side, generator=generator)
    prompts = torch.randn(2 * batch, length, width, generator=generator)
    texts = torch.zeros(batch, length, dtype=torch.long)
    timesteps = torch.linspace(999, 1, steps).long()

    @torch.no_grad()
    def passes() -> None:
        if is_whole:
            for _ in range(2):
                pipe.text_encoder(texts)
        for timestep in timesteps:
            unet(latents, timestep, prompts, return_dict=False)
        if is_whole:
            pipe.vae.decode(latents[:batch], return_dict=False)

    return passes


def one_at_a_time(pipe: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> None:
    """Draw as the loop over prompts that most scripts have."""
    for seed, prompt in enumerate(prompts):
        generator = torch.Generator("cpu").manual_seed(seed)
        pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
