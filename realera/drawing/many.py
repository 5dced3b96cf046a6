"""Draw many images: in batches, on several processes, resumable.

Batches are fixed by the list of drawings and the batch size alone; only images of the same settings
share one. So a run that was killed, or one with another number of processes, gives the same bytes.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TypeAlias, TypeVar

import pyarrow as pa
import torch
from diffusers import StableDiffusionPipeline
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from tqdm import tqdm

from realera.drawing.batch import draw
from realera.drawing.memory import save_memory
from realera.drawing.precision import check_precision, draw_in
from realera.drawing.subjects import Drawing
from realera.erasures.apply import apply_erasure
from realera.families.stable_diffusion import open_pipeline
from realera.runtime import devices
from realera.runtime.launch import problems_sent
from realera.settings.config import GenerateParams, ModelParams
from realera.settings.errors import ArtifactError, ConfigError, RealEraError
from realera.store.artifacts import read_parquet, write_parquet
from realera.store.images import SCHEMA, encode_png

SWITCHES = ("attention_slicing", "vae_slicing", "vae_tiling", "offload")
_ID_DIGITS = 16


@dataclass(frozen=True)
class Source:
    """Which model draws.

    Attributes:
        model: where it is, how it is held in memory.
        erasure: folder of the one that it carries; None: the original model.
    """

    model: ModelParams
    erasure: Path | None = None

    def files(self) -> list[Path]:
        """Return the files whose content decides what is drawn, beside the model."""
        return [] if self.erasure is None else [self.erasure]

    def open(
        self, scheduler: str, memory: GenerateParams | None = None, device: str | None = None
    ) -> StableDiffusionPipeline:
        """Open the pipeline.

        Args:
            scheduler: see `realera.families.schedulers.use_scheduler`.
            memory: whose switches save memory, and in which precision it draws; None: as the model is.
            device: instead of the model's.

        Raises:
            ConfigError: weights shall be offloaded, and there is no GPU; or it can't draw in that precision.
        """
        switches = {} if memory is None else memory.model_dump(include=set(SWITCHES))
        target = devices.resolve_device(device or self.model.device)
        where = self.model.model_dump() | {"device": str(target)}
        if switches.get("offload", "none") != "none":
            check_offload(switches["offload"], target)
            dtype = str(devices.resolve_dtype(self.model.dtype, target)).removeprefix("torch.")
            where |= {"device": "cpu", "dtype": dtype}
        if memory is not None:
            check_precision(memory.dtype, memory.offload, target)
        pipe = open_pipeline(**where, scheduler=scheduler)
        if self.erasure is not None:
            apply_erasure(pipe, self.erasure)
        if memory is not None:
            draw_in(pipe, memory.dtype)
        save_memory(pipe, **switches, device=target)
        return pipe


Item = TypeVar("Item")

Share: TypeAlias = tuple[int, Sequence[Drawing], Source, GenerateParams, Path]
"""Number of processes, and what `draw_all` was given."""


def draw_all(drawings: Sequence[Drawing], source: Source, params: GenerateParams, folder: Path) -> pa.Table:
    """Draw everything and return the table of images, in the order of `drawings`.

    Args:
        drawings: what to draw.
        source: the model.
        params: scheduler, steps, guidance, batch size and processes.
        folder: scratch; finished batches in it are kept and not drawn again.

    Raises:
        ConfigError: `offload` without a GPU, or more processes than GPUs.
        RealEraError: what a process has raised, or how it was ended.
    """
    num_processes = min(_num_processes(params, source.model.device), len(_batches(drawings, params)))
    arguments = (num_processes, drawings, source, params, folder)
    if num_processes > 1:
        _draw_on_processes(arguments)
    else:
        _draw_share(0, *arguments)
    return pa.concat_tables([read_parquet(part) for part in _parts(drawings, params, folder)])


def check_offload(offload: str, target: torch.device) -> None:
    """Refuse to offload weights where there is nothing to offload them from.

    Raises:
        ConfigError: the device is no CUDA GPU.
    """
    if offload != "none" and target.type != "cuda":
        raise ConfigError(f"generate.offload: found {offload!r}; accepted on {target.type}: none (it needs a CUDA GPU)")


def _num_processes(params: GenerateParams, device: str) -> int:
    """Return the number of processes: one where there is one GPU, so that a CPU's setting serves there too."""
    target, num_gpus = str(devices.resolve_device(device)), torch.cuda.device_count()
    if devices.most_processes(target, num_gpus) == 1:
        return 1
    devices.check_num_processes("generate.num_processes", params.num_processes, target, num_gpus)
    return params.num_processes


def image_id(drawing: Drawing, params: GenerateParams) -> str:
    """Return 16 hex digits of prompt, seed and settings: base and erased image of a pair share it."""
    settings: tuple = (params.scheduler, params.num_inference_steps, drawing.settings.guidance_scale)
    if drawing.settings.width or drawing.settings.height:
        settings += (drawing.settings.width, drawing.settings.height)
    return hashlib.sha256(repr((drawing.prompt, drawing.seed, settings)).encode()).hexdigest()[:_ID_DIGITS]


def _draw_on_processes(arguments: Share) -> None:
    """Draw every share in a process of its own; daemons, so that they end with this one."""
    method = start_method(arguments[2].model.device, arguments[3].num_threads)
    problems = get_context(method).SimpleQueue()
    try:
        start_processes(_draw_in_process, (problems, arguments), nprocs=arguments[0], daemon=True, start_method=method)
    except ProcessExitedException as error:
        if not problems.empty():
            raise problems.get() from None
        ended = f"a process was ended by {error.signal_name or f'code {error.exit_code}'}"
        raise RealEraError(f"generate.num_processes: {ended}; fewer processes need less memory") from error


def start_method(device: str, num_threads: int) -> str:
    """Return how processes are started: forked where that is safe, which spares them seconds of imports.

    A GPU's context does not outlive a fork, nor do OpenMP's threads: one that draws on a single thread needs none.
    Elsewhere than on Linux system libraries do not, either.
    """
    is_safe = devices.resolve_device(device).type == "cpu" and num_threads == 1 and sys.platform == "linux"
    return "fork" if is_safe else "spawn"


def _draw_in_process(rank: int, problems: "SimpleQueue[Exception]", arguments: Share) -> None:
    with problems_sent(problems):
        _draw_share(rank, *arguments)


def _draw_share(
    rank: int, num_processes: int, drawings: Sequence[Drawing], source: Source, params: GenerateParams, folder: Path
) -> None:
    """Draw every `num_processes`-th batch that is not there yet."""
    parts = _parts(drawings, params, folder)
    todo = [i for i in range(rank, len(parts), num_processes) if not _is_whole(parts[i])]
    if not todo:
        return
    torch.set_num_threads(params.num_threads)  # sums are split by threads, so their last bits depend on it
    device = str(devices.resolve_device(source.model.device))
    if num_processes > 1:
        device = devices.process_device(rank, device, torch.cuda.device_count())
    pipe = source.open(params.scheduler, params, device)
    batches = _batches(drawings, params)
    total = sum(len(batches[i]) for i in todo)
    with tqdm(total=total, desc="draw", unit="image", disable=rank > 0, mininterval=2) as bar:
        for index in todo:
            if (parent := parent_process()) and not parent.is_alive():  # the stage was killed: don't go on alone
                raise SystemExit(1)
            write_parquet(_draw_batch(pipe, batches[index], params), parts[index])
            bar.update(len(batches[index]))


def _draw_batch(pipe: StableDiffusionPipeline, batch: Sequence[Drawing], params: GenerateParams) -> pa.Table:
    settings = batch[0].settings
    images = draw(
        pipe,
        [drawing.prompt for drawing in batch],
        [drawing.seed for drawing in batch],
        params.num_inference_steps,
        settings.guidance_scale,
        params.batch_size,
        size=(settings.width, settings.height),
    )
    rows = [
        {
            "image_id": image_id(drawing, params),
            "group": drawing.subject.group,
            "word": drawing.subject.word,
            "parent": drawing.subject.parent,
            "prompt": drawing.prompt,
            "seed": drawing.seed,
            "png": encode_png(image),
        }
        for drawing, image in zip(batch, images, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _batches(drawings: Sequence[Drawing], params: GenerateParams) -> list[Sequence[Drawing]]:
    runs = [list(run) for _, run in groupby(drawings, key=lambda drawing: drawing.settings)]
    return [batch for run in runs for batch in divided(run, params.batch_size)]


def divided(run: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """Divide drawings of the same settings: an even number of batches of one size, which two processes end together."""
    number = -(-len(run) // most)
    if number % 2 and 1 < number < len(run):
        number += 1
    bounds = [len(run) * index // number for index in range(number + 1)]
    return [run[start:stop] for start, stop in pairwise(bounds)]


def _parts(drawings: Sequence[Drawing], params: GenerateParams, folder: Path) -> list[Path]:
    return [folder / f"part-{index:05d}.parquet" for index in range(len(_batches(drawings, params)))]


def _is_whole(part: Path) -> bool:
    """Say whether a finished batch can be read; a damaged one is drawn again."""
    try:
        return part.exists() and read_parquet(part).schema.equals(SCHEMA)
    except ArtifactError:
        return False
