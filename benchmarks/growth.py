"""What 1, 10, 100, 1,000 concepts in one solve cost: encode, mine, sum, solve; and what the 101st costs.

Concepts come one after the other: a concept's samples are gone when its sums are added, so that memory
holds those of one. A concept has one prompt, its anchor's, and M and N samples of 70 tokens as in
params.yaml. Text is encoded by tiny-sd's encoder; the rest is of Stable Diffusion v1.4's size.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.sizes import PROJECT, SPAN, WIDTH, default, prompt_table, weights
from benchmarks.timing import Section, Settings, alternate, figure, peak_mib, seconds, timed
from realera.families.stable_diffusion import open_pipeline
from realera.methods.common.closed_form import Gram
from realera.methods.realera.perturb import sample, sample_blocks
from realera.methods.realera.rows import Grams, solve_grams, solve_sums
from realera.methods.realera.samples import SampleTable
from realera.methods.realera.sums import no_grams, target_sums, total_sums
from realera.settings.config import SamplerParams, SolverParams
from realera.text.prompt_table import PromptTable
from realera.text.prompts import embed

NUM_PRESERVED = 100


@dataclass
class Run:
    """Sums over concepts, and the seconds that each part took so far."""

    sampler: SamplerParams
    solver: SolverParams
    matrices: dict[str, torch.Tensor]
    grams: Grams = field(default_factory=lambda: no_grams(WIDTH))
    kept: Gram = field(default_factory=lambda: Gram(WIDTH, stays=True))
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, index: int, num_preserved: int = 0) -> None:
        """Mine a concept and add it to the sums."""
        table = prompt_table(1, num_preserved, seed=index)
        found: list[Any] = []
        self._clock("mine", lambda: found.append(sample(table, self.sampler)[0]))
        self._clock("sums", lambda: self._sum(table, found[0]))

    def solve(self) -> None:
        """Solve once for all, and multiply the 32 matrices."""
        self._clock("solve", self._solve)

    def _sum(self, table: PromptTable, samples: SampleTable) -> None:
        self.kept.add(table.preserved())
        for each in target_sums(table, self.sampler, {}, lambda: [samples]):
            each.form.add_to(self.grams)

    def _solve(self) -> None:
        solution = solve_grams({**self.grams, "preserve": self.kept}, self.solver)
        for weight in self.matrices.values():
            solution.apply(weight)

    def _clock(self, part: str, work: Callable[[], None]) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds(work)


def measure(settings: Settings) -> Section:
    """Measure time and memory by the number of concepts, what a table of all holds, and the next concept."""
    section = Section()
    counts = settings.pick((1, 2), (1, 10, 100), (1, 10, 100, 1000))
    runs: dict[int, Run] = {}
    peaks: dict[int, float] = {}
    for num in counts:
        runs[num] = new_run()
        peaks[num] = peak_mib(partial(_erase_streamed, runs[num], num))
        runs[num].seconds["encode"] = _encode_seconds(num)
    for part in ("encode", "mine", "sums", "solve"):
        section.curves[part] = [(num, runs[num].seconds[part]) for num in counts]
        for num in counts[1:]:
            pair = [runs[num].seconds[part]], [runs[1].seconds[part]]
            aim = 1.5 if part == "solve" else None
            section.add(figure(f"{part}, {num:,} concepts", "1 concept", pair, "times as long", aim))
    for num in counts[1:]:
        pair = [peaks[num]], [peaks[1]]
        what = f"peak of mine, sums and solve, {num:,} concepts one by one"
        section.add(figure(what, "1 concept", pair, "times the memory", 1.5))
    _measure_table(section, counts[1], peaks)
    _measure_next(section, settings, runs[counts[-1] if settings.size == "smoke" else min(100, counts[-1])])
    return section


def new_run() -> Run:
    """Return sums of nothing, with the project's parameters."""
    sampler = SamplerParams(**default("sampler") | {"M": 10, "N": 10, "source": "noise"})
    return Run(sampler, SolverParams(**default("solver")), weights())


def _erase_streamed(run: Run, num: int) -> None:
    for index in range(num):
        run.add(index, NUM_PRESERVED if index == 0 else 0)
    run.solve()


def _encode_seconds(num: int) -> float:
    """Return the seconds of encoding a prompt and its anchor's for each concept."""
    pipe = open_pipeline(PROJECT / "data/models/tiny-sd", device="cpu", without=("unet", "vae"))
    texts = [f"a photo of the concept {index}" for index in range(2 * num)]
    embed(texts[:1], pipe.tokenizer, pipe.text_encoder)
    return seconds(lambda: embed(texts, pipe.tokenizer, pipe.text_encoder, default("encode")["batch_size"]))


def _measure_table(section: Section, num: int, peaks: dict[int, float]) -> None:
    """What the stages hold: the prompts of every target of a preset, and a block of samples at a time."""
    run = new_run()

    def whole() -> None:
        table = prompt_table(num, NUM_PRESERVED)
        blocks = (samples for samples, _ in sample_blocks(table, run.sampler))
        sums = total_sums(table, run.sampler, {}, lambda: blocks)
        solve_sums(run.matrices, table, sums, run.sampler.span, run.solver)

    pair = [peak_mib(whole)], [peaks[num]]
    what = f"peak of one preset with {num:,} targets, as the stages hold it"
    section.add(figure(what, "one by one", pair, "times the memory"))


def _measure_next(section: Section, settings: Settings, run: Run) -> None:
    """Sums that are kept: a further concept beside all of them again."""
    num = run.grams["target"].num_rows // SPAN

    def one_more() -> None:
        following = Run(run.sampler, run.solver, run.matrices, copy.deepcopy(run.grams), copy.deepcopy(run.kept))
        following.add(num)
        following.solve()

    def again() -> None:
        _erase_streamed(Run(run.sampler, run.solver, run.matrices), num + 1)

    measured = alternate(timed(one_more), timed(again), settings.pick(1, 1, 3), warm_up=False)
    what = f"concept {num + 1} added to kept sums, and the solve"
    section.add(figure(what, f"all {num + 1} again", measured, "times as fast"))
