"""Prediction-noise alignment (section 4.3, Algorithm 1 lines 25 to 31): train the LoRA.

The student is the UNet with the closed form's weights and the LoRA; the teacher is the untouched
UNet. Both are one model in memory. With p_c a target's prompt, p_c* its anchor's, p'_c a neighbor of p_c
and p''_c a sample beyond it:

    odd steps   | student(z_t, t, p_c)  - teacher(z_t, t, p_c*) |^2                             (8)
    even steps  gamma1 | student(z_t, t, p'_c)  - teacher(z_t, t, p_c*)  |^2                    (9)
              + gamma2 | student(z_t, t, p''_c) - teacher(z_t, t, p''_c) |^2

each the mean over elements. z_t are noised latents of anchor images. Outputs are matched with
outputs, so it makes no difference whether a model predicts the noise, v or the image.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from realera.families.cross_attention import patch, weights
from realera.methods.common.lora import Row, add_lora, load_checkpoint, save_checkpoint, untouched
from realera.settings.config import LoraParams
from realera.settings.errors import ConfigError
from realera.store import seeds

COLUMNS = ("step", "loss", "erase", "preserve", "lr")
MAX_GRADIENT_NORM = 1.0

Mine: TypeAlias = Callable[[int, torch.Generator], tuple[torch.Tensor | None, torch.Tensor | None]]
"""(pair, generator) -> a neighbor and a beyond sample of its target [t, d]; None where M or N is 0."""


@dataclass(frozen=True)
class Pairs:
    """P prompts of targets with the anchor prompts that they map to, and images of the anchors.

    Attributes:
        targets_ptd: text embeddings, float32 [P, T, d].
        anchors_ptd: text embeddings, float32 [P, T, d].
        latents_nchw: anchor images, VAE-encoded and scaled, float32.
        rows_pn: for each pair the rows of `latents_nchw` that show its anchor, int64.
    """

    targets_ptd: torch.Tensor
    anchors_ptd: torch.Tensor
    latents_nchw: torch.Tensor
    rows_pn: torch.Tensor

    def __post_init__(self) -> None:
        assert self.targets_ptd.shape == self.anchors_ptd.shape
        assert len(self.rows_pn) == len(self.targets_ptd)


@dataclass(frozen=True)
class Batch:
    """What one step shows to student and teacher, on the CPU in float32.

    Attributes:
        noised_bchw: z_t.
        timesteps_b: t, int64.
        student_kbtd: prompts of the k terms (erase, then preserve if there is one).
        teacher_kbtd: the prompts whose outputs they are pulled to.
        weights_k: gamma1, gamma2 in even steps.
    """

    noised_bchw: torch.Tensor
    timesteps_b: torch.Tensor
    student_kbtd: torch.Tensor
    teacher_kbtd: torch.Tensor
    weights_k: tuple[float, ...]

    def share(self, index: int, count: int) -> "Batch":
        """Return every `count`-th image from the one at `index`: a process's part of the step."""
        own = slice(index, None, count)
        return Batch(
            self.noised_bchw[own],
            self.timesteps_b[own],
            self.student_kbtd[:, own],
            self.teacher_kbtd[:, own],
            self.weights_k,
        )


def train(
    unet: UNet2DConditionModel,
    pairs: Pairs,
    alphas_cumprod: torch.Tensor,
    params: LoraParams,
    folder: Path,
    mine: Mine,
    kv_weights: Mapping[str, torch.Tensor] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a LoRA on the UNet, going on from the checkpoint in `folder` if there is one.

    Each image of a batch is a draw of its own: pair, anchor image, t, noise and mined sample. All draws
    of a step come from a generator of that step, so that a killed training ends as an uninterrupted one.
    Several processes (see `realera.runtime.launch`) train on a share of each batch and average their gradients; the
    first of them saves checkpoints, which all read.

    Args:
        unet: the untouched model; ends as the student, with `kv_weights` and the trained adapter.
        pairs: prompts and anchor images.
        alphas_cumprod: the scheduler's, [number of timesteps].
        params: section `lora` of the parameters.
        folder: scratch, for the checkpoint.
        mine: makes the samples of the even steps.
        kv_weights: the closed form's weights; None starts from the original ones.
        progress: show a bar with rate and remaining time on stderr.

    Returns:
        One row a step: step (from 1), loss, its parts before gamma (preserve is empty where there
        is no such term), learning rate; 6 significant digits.

    Raises:
        ConfigError: the precision is not possible on the UNet's device, the batch cannot be shared
            equally, or the loss becomes infinite.
        ModelError: the UNet has no cross-attention.
        ArtifactError: `kv_weights` are not this UNet's.
    """
    accelerator = _accelerator(unet, params)
    original = weights(unet)
    if kv_weights is not None:
        # `patch` writes over the weights in place, and the teacher needs the old ones.
        original = {name: weight.clone() for name, weight in original.items()}
        patch(unet, kv_weights)
    lora = add_lora(unet.eval(), params)
    if params.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    raw = torch.optim.AdamW(lora.values(), lr=params.learning_rate, weight_decay=0.0)
    optimizer = accelerator.prepare(raw)
    rows = load_checkpoint(folder, lora, raw, accelerator.scaler)
    steps = range(len(rows) + 1, params.steps + 1)
    hidden = not (progress and accelerator.is_main_process)
    with tqdm(steps, initial=len(rows), total=params.steps, unit="step", desc="align", disable=hidden) as bar:
        for step in bar:
            batch = draw_batch(pairs, alphas_cumprod, params, mine, step, seeds.generator(params.seed, step, 0))
            batch = batch.share(accelerator.process_index, accelerator.num_processes)
            rows.append(_take_step(accelerator, optimizer, unet, original, batch))
            _check_finite(rows)
            bar.set_postfix(loss=f"{rows[-1][0]:.3g}", refresh=False)
            if accelerator.is_main_process and (step % params.save_every == 0 or step == params.steps):
                save_checkpoint(folder, rows, lora, raw, accelerator.scaler)
    return _table(rows, params.learning_rate)


def draw_batch(
    pairs: Pairs,
    alphas_cumprod: torch.Tensor,
    params: LoraParams,
    mine: Mine,
    step: int,
    generator: torch.Generator,
) -> Batch:
    """Draw what step `step` (from 1) trains on: equation 8 when it is odd, 9 when it is even."""
    (num_pairs, num_images), size = pairs.rows_pn.shape, (params.batch_size,)
    chosen_b = torch.randint(num_pairs, size, generator=generator)
    rows_b = pairs.rows_pn[chosen_b, torch.randint(num_images, size, generator=generator)]
    timesteps_b = torch.randint(len(alphas_cumprod), size, generator=generator)
    clean_bchw = pairs.latents_nchw[rows_b]
    noise_bchw = torch.randn(clean_bchw.shape, generator=generator)
    alpha_b111 = alphas_cumprod[timesteps_b].cpu().view(-1, 1, 1, 1)
    noised_bchw = alpha_b111.sqrt() * clean_bchw + (1 - alpha_b111).sqrt() * noise_bchw

    targets_btd, anchors_btd = pairs.targets_ptd[chosen_b], pairs.anchors_ptd[chosen_b]
    if step % 2:
        return Batch(noised_bchw, timesteps_b, targets_btd[None], anchors_btd[None], (1.0,))
    mined = [mine(int(pair), generator) for pair in chosen_b]
    neighbors_btd = _stack([neighbor for neighbor, _ in mined])
    beyond_btd = _stack([beyond for _, beyond in mined])
    erased_btd = targets_btd if neighbors_btd is None else neighbors_btd
    if beyond_btd is None:
        return Batch(noised_bchw, timesteps_b, erased_btd[None], anchors_btd[None], (params.gamma1,))
    student_kbtd = torch.stack([erased_btd, beyond_btd])
    teacher_kbtd = torch.stack([anchors_btd, beyond_btd])
    return Batch(noised_bchw, timesteps_b, student_kbtd, teacher_kbtd, (params.gamma1, params.gamma2))


def prediction_errors(unet: UNet2DConditionModel, original: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Return the mean squared difference of student and teacher for each term, float32 [k].

    One pass of the teacher and one of the student serve all terms.
    """
    with torch.no_grad(), untouched(unet, original):
        wanted_nchw = _predict(unet, batch, batch.teacher_kbtd)
    found_nchw = _predict(unet, batch, batch.student_kbtd)
    squares_nchw = (found_nchw.float() - wanted_nchw.float()).square()
    return squares_nchw.unflatten(0, batch.student_kbtd.shape[:2]).flatten(1).mean(1)


def _predict(unet: UNet2DConditionModel, batch: Batch, prompts_kbtd: torch.Tensor) -> torch.Tensor:
    num_terms = len(prompts_kbtd)
    noised_nchw = batch.noised_bchw.repeat(num_terms, 1, 1, 1).to(unet.device, unet.dtype)
    timesteps_n = batch.timesteps_b.repeat(num_terms).to(unet.device)
    prompts_ntd = prompts_kbtd.flatten(0, 1).to(unet.device, unet.dtype)
    return unet(noised_nchw, timesteps_n, prompts_ntd, return_dict=False)[0]


def _stack(samples: list[torch.Tensor | None]) -> torch.Tensor | None:
    found = [sample for sample in samples if sample is not None]
    assert len(found) in (0, len(samples)), "mine gives a kind of sample always or never"
    return torch.stack(found) if found else None


def _take_step(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    unet: UNet2DConditionModel,
    original: Mapping[str, torch.Tensor],
    batch: Batch,
) -> Row:
    """Update the LoRA once; return loss, erase and preserve before it, averaged over the processes."""
    with accelerator.autocast():
        errors_k = prediction_errors(unet, original, batch)
    loss = (errors_k * errors_k.new_tensor(batch.weights_k)).sum()
    accelerator.backward(loss)
    (group,) = optimizer.param_groups
    _average_gradients(accelerator, group["params"])
    accelerator.clip_grad_norm_(group["params"], MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    values = accelerator.reduce(torch.cat([loss.detach()[None], errors_k.detach()]), "mean").tolist()
    return tuple(values) if len(values) == 3 else (*values, math.nan)


def _average_gradients(accelerator: Accelerator, lora: list[torch.nn.Parameter]) -> None:
    """Average the gradients over the processes, in one message."""
    if accelerator.num_processes == 1:
        return
    own = torch.cat([weight.grad.flatten() for weight in lora if weight.grad is not None])
    averages = accelerator.reduce(own, "mean").split([weight.numel() for weight in lora])
    for weight, average in zip(lora, averages, strict=True):
        weight.grad = average.view_as(weight)


def _check_finite(rows: list[Row]) -> None:
    loss = rows[-1][0]
    if not math.isfinite(loss):
        raise ConfigError(f"lora.learning_rate: the loss is {loss} at step {len(rows)}; accepted: a smaller one")


def _accelerator(unet: UNet2DConditionModel, params: LoraParams) -> Accelerator:
    """Return where and in which precision to train.

    A model held in half precision is trained in it: float16 needs the scaled loss that accelerate's fp16
    brings, as gradients below 6e-8 vanish.
    """
    held = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(unet.dtype, "no")
    precision = held if params.mixed_precision == "no" else params.mixed_precision
    on_cpu = unet.device.type == "cpu"
    if on_cpu and precision == "fp16":
        found = "found 16-bit floats, which a CPU does not train; accepted there"
        if held == "no":
            raise ConfigError(f"lora.mixed_precision: {found}: no, bf16")
        raise ConfigError(f"model.dtype: {found}: auto, float32, bfloat16")
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
    check_shares(params.batch_size, accelerator.num_processes)
    return accelerator


def check_shares(batch_size: int, num_processes: int) -> None:
    """Refuse a batch that the processes, by whomever they were started, cannot share equally.

    Raises:
        ConfigError: `batch_size` is no multiple of `num_processes`.
    """
    if batch_size % num_processes:
        found = f"found {batch_size}, which {num_processes} processes (lora.num_processes, or a launcher's) share"
        raise ConfigError(f"lora.batch_size: {found}; accepted: a multiple of {num_processes}")


def _table(rows: list[Row], learning_rate: float) -> pd.DataFrame:
    full = [(step, *row, learning_rate) for step, row in enumerate(rows, start=1)]
    table = pd.DataFrame(full, columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[1:], "float64"))
    for name in COLUMNS[1:]:
        table[name] = [float(f"{value:.6g}") for value in table[name]]
    return table.astype({"step": "int64"})
