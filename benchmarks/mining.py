"""Mining beside Algorithm 1's loop of proposals, with the Parquet file written, and what it holds in memory."""

import importlib
import itertools
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sizes import SPAN, default, prompt_table
from benchmarks.timing import Section, Settings, Task, figure, in_turn, peak_mib, seconds
from realera.methods.realera.perturb import sample, sample_blocks, thresholds
from realera.methods.realera.samples import SampleTable, write_blocks
from realera.settings.config import SamplerParams
from realera.store import seeds
from realera.text.prompt_table import PromptTable

NUM_PROMPTS = 30
AIM = 50.0
MEMORY_AIM = 1.5
"""Of ten times the samples: memory that is bounded by chunks hardly grows."""

FEW_PROMPTS = 3
BYTES_A_ROW = 4 * 768
GIB = 2**30


def measure(settings: Settings) -> Section:
    """Measure M = N = 10, 100, 1,000 as far as the size goes."""
    section, peaks = Section(), []
    for num in settings.pick((2,), (10, 100), (10, 100, 1000)):
        params = SamplerParams(**default("sampler") | {"M": num, "N": num, "source": "noise"})
        num_prompts = settings.pick(1, 30 if num <= 10 else 3, 30 if num <= 100 else 3)
        table = prompt_table(num_prompts)
        _measure_loop(section, settings, table, params)
        peaks.append((num, peak_mib(partial(_mine, prompt_table(FEW_PROMPTS), params))))
    note = f"on {FEW_PROMPTS} prompts, so that the largest file is of 1.2 GiB"
    for (few, before), (many, after) in itertools.pairwise(peaks):
        pair = ([after], [before])
        section.add(figure(f"M = N = {many:,}", f"M = N = {few:,}", pair, "times the memory", MEMORY_AIM, note))
    return section


def loop_seconds(table: PromptTable, params: SamplerParams, num_tokens: int, num_samples: int) -> float:
    """Return the seconds of Algorithm 1's loop for all prompts, scaled from a share of tokens and samples."""
    loop: Any = importlib.import_module("tests.kit.reference_mining").rejection_loop
    limits, generator = thresholds(params), seeds.generator("benchmarks", "loop")
    rows = table.embeddings[0, -num_tokens:]

    def run() -> None:
        for row in rows:
            for kind in ("neighbor", "beyond"):
                loop(kind, row[None], num_samples, limits, generator)

    return seconds(run) * NUM_PROMPTS * SPAN / num_tokens * params.M / num_samples


def floor(samples: SampleTable) -> None:
    """Do what no miner gets around: as many random numbers, and the same file."""
    torch.randn(samples.eta.shape, generator=seeds.generator("benchmarks", "floor"))
    with tempfile.TemporaryDirectory() as folder:
        samples.write(Path(folder) / "samples.parquet")


def _mine(table: PromptTable, params: SamplerParams) -> None:
    blocks = (samples for samples, _ in sample_blocks(table, params))
    with tempfile.TemporaryDirectory() as folder:
        write_blocks(blocks, Path(folder) / "samples.parquet")


def _measure_loop(section: Section, settings: Settings, table: PromptTable, params: SamplerParams) -> None:
    num_prompts, num_tokens = len(table.prompts) // 2, settings.pick(2, 10, 20)
    num_samples, scale = int(min(params.M, 20)), NUM_PROMPTS / num_prompts
    samples, _ = sample(table, params)
    tasks: list[Task] = [
        lambda: seconds(lambda: _mine(table, params)) * scale,
        lambda: loop_seconds(table, params, num_tokens, num_samples),
        lambda: seconds(lambda: floor(samples)) * scale,
    ]
    is_small = params.M <= 10
    ours, loop, least = in_turn(tasks, settings.rounds if is_small else settings.pick(1, 2, 3), warm_up=is_small)
    note = f"loop on {num_tokens} of {NUM_PROMPTS * SPAN:,} tokens and {num_samples} of {params.M:,} samples, no file"
    if num_prompts < NUM_PROMPTS:
        whole = 2 * params.M * NUM_PROMPTS * SPAN * BYTES_A_ROW / GIB
        note += f"; ours on {num_prompts} of {NUM_PROMPTS} prompts, scaled: all samples are {whole:.1f} GiB"
    what = f"M = N = {params.M:,}"
    line = figure(what, "Algorithm 1's loop", (ours, loop), "times as fast", AIM, note)
    section.add(line)
    section.add(figure(what, "floor: the random numbers and the file", (ours, least), "times as long"))
    for curve, y in (("RealEra", line.ours), ("Algorithm 1's loop", line.other)):
        section.mark(curve, params.M, y)


def acceptance(table: PromptTable, params: SamplerParams) -> tuple[float, float]:
    """Return the share of accepted neighbors by ours and by the loop, for one token: both follow one law."""
    loop: Any = importlib.import_module("tests.kit.reference_mining").rejection_loop
    _, found = sample(table, params)
    generator = seeds.generator("benchmarks", "acceptance")
    token = torch.as_tensor(table.embeddings[0, -1:])
    return found["neighbor"], loop("neighbor", token, 200, thresholds(params), generator)[3]
