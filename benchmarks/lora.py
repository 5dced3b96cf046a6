"""A training step of the LoRA beside the bare passes that it cannot avoid: seconds and peak memory.

Bare are one forward pass of the teacher, one of the student and its backward pass, on a UNet without an
adapter whose K and V weights want gradients. A pair of steps is one of each kind: equation 8, then 9.
"""

import copy
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from benchmarks.sizes import PROJECT, default, prompt_table, tokens
from benchmarks.timing import Section, Settings, alternate, figure, peak_mib
from realera.families.cross_attention import cross_attention, weights
from realera.families.stable_diffusion import open_pipeline
from realera.methods.realera.alignment import Pairs, train
from realera.methods.realera.perturb import Perturb, perturber, sample
from realera.settings.config import LoraParams, SamplerParams
from realera.store import seeds

AIM = 1.15
TINY_SD = PROJECT / "data/models/tiny-sd"
NUM_PAIRS, NUM_IMAGES, NUM_TIMESTEPS = 4, 8, 1000


@dataclass(frozen=True)
class Problem:
    """What both train on."""

    unet: UNet2DConditionModel
    pairs: Pairs
    mine: Perturb
    params: LoraParams

    @property
    def latent(self) -> tuple[int, ...]:
        """Return the shape of a latent image."""
        return tuple(self.pairs.latents_nchw.shape[1:])


def measure(settings: Settings) -> Section:
    """Measure seconds and memory of a pair of steps."""
    if settings.full_size_unet:
        problem = build(_full_size_unet(), batch_size=1)
        name, num_pairs, rounds = "Stable Diffusion v1.4's size, batch 1", 1, 1
    else:
        problem = build(open_pipeline(TINY_SD, device="cpu").unet, settings.pick(1, 4, 4))
        name = f"tiny-sd, batch {problem.params.batch_size}"
        num_pairs, rounds = settings.pick(1, 5, 26), settings.rounds
    measured = alternate(
        lambda: step_seconds(problem, num_pairs),
        lambda: bare_seconds(problem, num_pairs),
        rounds,
        warm_up=settings.size != "smoke" and not settings.full_size_unet,
    )
    note = "with drawing the batch, mining, clipping, AdamW and checkpoints as in params.yaml"
    section = Section()
    section.add(figure(f"two steps, {name}", "bare passes", measured, "times as long", AIM, note))
    peaks = peak_mib(lambda: step_seconds(problem, 1)), peak_mib(lambda: bare_seconds(problem, 1))
    note = "above what is held before: with the copy of K and V, the adapter and its moments"
    what = f"peak of two steps, {name}"
    section.add(figure(what, "bare passes", ([peaks[0]], [peaks[1]]), "times the memory", AIM, note))
    return section


def build(unet: UNet2DConditionModel, batch_size: int) -> Problem:
    """Return a problem with random prompts and latents that fit the UNet."""
    width, side = unet.config.cross_attention_dim, unet.config.sample_size
    sampler = SamplerParams(**default("sampler") | {"M": 1, "N": 1, "source": "noise"})
    table = prompt_table(NUM_PAIRS, width=width)
    samples, _ = sample(table, sampler)
    latents = torch.randn(NUM_IMAGES, 4, side, side, generator=seeds.generator("benchmarks", "latents"))
    found = table.pairs(sampler.span)
    pairs = Pairs(
        table.embeddings[[pair.target_id for pair in found]],
        table.embeddings[[pair.anchor_id for pair in found]],
        latents,
        torch.arange(NUM_IMAGES).expand(NUM_PAIRS, -1),
    )
    params = LoraParams(**default("lora") | {"batch_size": batch_size})
    return Problem(unet.eval(), pairs, perturber(table, samples, sampler), params)


def step_seconds(problem: Problem, num_pairs: int) -> float:
    """Return the seconds of `num_pairs` pairs of steps inside `realera.methods.realera.alignment.train`.

    A step begins where the teacher's pass begins; the last step that is trained only ends the one before.
    """
    unet = _copied(problem.unet)
    params = problem.params.model_copy(update={"steps": 2 * num_pairs + 1})
    alphas = torch.linspace(0.999, 0.005, NUM_TIMESTEPS)
    with tempfile.TemporaryDirectory() as folder, _passes(unet) as starts:
        train(unet, problem.pairs, alphas, params, Path(folder), problem.mine, weights(problem.unet), progress=False)
    teachers = starts[::2]
    return teachers[2 * num_pairs] - teachers[0]


def bare_seconds(problem: Problem, num_pairs: int) -> float:
    """Return the seconds of the bare passes of as many steps, on inputs that are there already."""
    unet = _copied(problem.unet).requires_grad_(False)
    for layer in cross_attention(unet).values():
        layer.weight.requires_grad_(True)
    steps = [_bare_step(unet, problem, terms) for terms in (1, 2)]
    start = time.perf_counter()
    for _ in range(num_pairs):
        for step in steps:
            step()
    return time.perf_counter() - start


def _bare_step(unet: UNet2DConditionModel, problem: Problem, terms: int) -> Callable[[], None]:
    """Return the passes of a step whose loss has `terms` terms."""
    size = terms * problem.params.batch_size
    noised = torch.randn(size, *problem.latent, generator=seeds.generator("benchmarks", terms))
    timesteps = torch.arange(size) * (NUM_TIMESTEPS // size)
    prompts = tokens(size, problem.pairs.targets_ptd.shape[1], seed=terms, width=unet.config.cross_attention_dim)

    def step() -> None:
        with torch.no_grad():
            wanted = unet(noised, timesteps, prompts, return_dict=False)[0]
        found = unet(noised, timesteps, prompts, return_dict=False)[0]
        (found - wanted).square().mean().backward()
        unet.zero_grad(set_to_none=True)

    return step


@contextmanager
def _passes(unet: UNet2DConditionModel) -> Iterator[list[float]]:
    """Yield when the UNet's passes began, as the clock stood."""
    starts: list[float] = []
    hook = unet.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    yield starts
    hook.remove()


def _copied(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    return copy.deepcopy(unet)


def _full_size_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet: UNet2DConditionModel = importlib.import_module("tools.fullsize").new_part("unet")
    return unet
