"""Mining in closed form beside samples and Algorithm 1's loop; thousands of concepts by their sums, and one more."""

import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.mining import NUM_PROMPTS, loop_seconds
from benchmarks.sizes import PROJECT, SPAN, WIDTH, default, prompt_table, tokens, weights
from benchmarks.timing import Section, Settings, alternate, figure, in_turn, peak_mib, seconds, timed
from realera.methods.common.closed_form import Gram
from realera.methods.realera.perturb import expect, sample_blocks
from realera.methods.realera.rows import Grams, solve_grams
from realera.methods.realera.samples import read_blocks, write_blocks
from realera.methods.realera.sums import add_all, file_name, read_target, target_sums, total_sums, write_target
from realera.methods.realera.together import Member, Together
from realera.settings.config import Params, SamplerParams, SolverParams, load_params
from realera.store import seeds
from realera.text.prompt_table import PromptTable

SAMPLED_AIM = 500.0
LOOP_AIM = 2000.0
MEMORY_AIM = 1.1
THOUSANDS_SECONDS = 60.0
THOUSANDS_MIB = 2048.0
ONE_MORE_SECONDS = 1.0
NUM_CONCEPTS = 2000
NUM_KEPT = 425
"""Texts that stay, as many as the everyday words that are kept by default."""

NAME_TOKENS = 3


def measure(settings: Settings) -> Section:
    """Measure exact mining, many concepts, and a concept that is added or withdrawn."""
    section = Section()
    _measure_exact(section, settings)
    _measure_memory(section, settings)
    for span in ("concept", "concept_to_end"):
        _measure_many(section, settings, span)
    _measure_one_more(section, settings)
    return section


def sampler(number: float, span: str = "concept_to_end") -> SamplerParams:
    """Return the project's parameters with so many samples of both kinds."""
    return SamplerParams(**default("sampler") | {"M": number, "N": number, "source": "noise", "span": span})


def mined(table: PromptTable, params: SamplerParams) -> Grams:
    """Mine and add up, as the stage does: sampled kinds go through their file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.parquet"
        write_blocks((samples for samples, _ in sample_blocks(table, params)), path)
        return total_sums(table, params, expect(table, params), lambda: read_blocks(path))


def _measure_exact(section: Section, settings: Settings) -> None:
    number = settings.pick(2, 100, 1000)
    few = settings.pick(1, 3, 3)
    whole = prompt_table(NUM_PROMPTS, target="thing")
    share = prompt_table(few, target="thing")
    num_tokens, num_samples = settings.pick(2, 10, 20), min(number, 20)
    exact, sampled, loop = in_turn(
        [
            lambda: seconds(lambda: mined(whole, sampler(math.inf))),
            lambda: seconds(lambda: mined(share, sampler(number))) * NUM_PROMPTS / few,
            lambda: loop_seconds(whole, sampler(number), num_tokens, num_samples),
        ],
        settings.pick(1, 2, 3),
    )
    what = f"M = N = inf, {NUM_PROMPTS} prompts x {SPAN} tokens, mined and summed"
    note = f"on {few} of {NUM_PROMPTS} prompts, scaled"
    against = f"samples and sums, M = N = {number:,}"
    section.add(figure(what, against, (exact, sampled), "times as fast", SAMPLED_AIM, note))
    note = (
        f"loop on {num_tokens} of {NUM_PROMPTS * SPAN:,} tokens and {num_samples} of {number:,} samples, without sums"
    )
    against = f"Algorithm 1's loop, M = N = {number:,}"
    section.add(figure(what, against, (exact, loop), "times as fast", LOOP_AIM, note))


def _measure_memory(section: Section, settings: Settings) -> None:
    table = prompt_table(settings.pick(2, NUM_PROMPTS, NUM_PROMPTS), target="thing")
    exact, none = in_turn(
        [partial(peak_mib, partial(mined, table, sampler(number))) for number in (math.inf, 0)], settings.rounds
    )
    section.add(figure("M = N = inf, mined and summed", "M = N = 0", (exact, none), "times the memory", MEMORY_AIM))


class Many:
    """Concepts whose sums are written one by one, read again, added up and solved.

    Attributes:
        seconds: of that work, without making up the embeddings.
    """

    def __init__(self, num: int, span: str, folder: Path) -> None:
        self.params, self.folder, self.num = sampler(math.inf, span), folder, num
        self.seconds = 0.0

    def tables(self) -> Iterator[PromptTable]:
        """Yield a concept's prompts after the other, all different; there is room in memory for one."""
        base = prompt_table(NUM_PROMPTS, name_tokens=NAME_TOKENS)
        for index in range(self.num):
            generator = seeds.generator("benchmarks", "many", index)
            other = base.embeddings * (1 + torch.randn(WIDTH, generator=generator) / 4)
            names = [vars(prompt) | {"target": f"concept {index}"} for prompt in base.prompts]
            yield PromptTable([type(base.prompts[0])(**name) for name in names], base.tokens, other)

    def run(self) -> None:
        """From embeddings to 32 patched matrices."""
        names, matrices = [], weights()
        for table in self.tables():
            names += self._clock(partial(self._write, table))
        self._clock(lambda: self._solve(names, matrices))

    def _clock(self, work: Callable[[], list[str]]) -> list[str]:
        found: list[str] = []
        self.seconds += seconds(lambda: found.extend(work()))
        return found

    def _write(self, table: PromptTable) -> list[str]:
        names = []
        for each in target_sums(table, self.params, expect(table, self.params), list):
            names.append(each.target)
            write_target(each, self.folder / file_name(each.target))
        return names

    def _solve(self, names: list[str], matrices: dict[str, torch.Tensor]) -> list[str]:
        total = add_all((read_target(self.folder / file_name(name)) for name in names), WIDTH)
        kept = Gram(WIDTH, stays=True)
        kept.add(tokens(NUM_KEPT * 77, seed=0))
        solution = solve_grams({**total, "preserve": kept}, SolverParams(**default("solver")))
        for weight in matrices.values():
            solution.apply(weight)
        return []


def _measure_many(section: Section, settings: Settings, span: str) -> None:
    """All concepts by their names' own tokens; where whole matrices are kept, a share of them."""
    is_whole = span == "concept"
    num = settings.pick(2, 100, NUM_CONCEPTS if is_whole else 40)
    with tempfile.TemporaryDirectory() as folder:
        many = Many(num, span, Path(folder))
        peak = peak_mib(many.run)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / num / 2**20
    rows = NUM_PROMPTS * (NAME_TOKENS if is_whole else SPAN)
    what = f"{NUM_CONCEPTS:,} concepts, sampler.span {span}: {rows:,} tokens each"
    note = f"embeddings to 32 matrices, through a file of {size:.1f} MiB for each"
    if num < NUM_CONCEPTS:
        note += f"; measured on {num}, scaled"
    pair = [many.seconds * NUM_CONCEPTS / num], [THOUSANDS_SECONDS]
    section.add(figure(what, "60 s", pair, "times as long", 1.0, note))
    section.add(figure(f"its peak, {span}", "2 GiB", ([peak], [THOUSANDS_MIB]), "times the memory", 1.0))


def _measure_one_more(section: Section, settings: Settings) -> None:
    """A concept withdrawn from 2,000 and added again, with all files read and written."""
    params = _params()
    table = prompt_table(NUM_PROMPTS, settings.pick(2, NUM_KEPT, NUM_KEPT), target="thing")
    (one,) = target_sums(table, params.sampler, expect(table, params.sampler), list)
    together, matrices = Together.nothing(WIDTH, params), weights()
    together.keeps["others"] = tuple(prompt.text for prompt in table.prompts if prompt.role == "preserve")
    together.texts = {f"kept {index}": each for index, each in enumerate(table.embeddings[2 * NUM_PROMPTS :])}
    together.grams["preserve"].add(table.preserved())
    for name in ("one", "other"):
        one.form.add_to(together.grams)
        together.targets[name] = Member(preset="others", anchor="thing", content=one.content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joint"
        together.save(together.solve(matrices, params, "stable_diffusion"), path)

        def withdraw() -> None:
            found = Together.read(path)
            found.withdraw("other", lambda preset, target: one.__class__(target, one.content, one.form))
            found.save(found.solve(matrices, params, "stable_diffusion"), Path(folder) / "less")

        measured = alternate(timed(withdraw), lambda: ONE_MORE_SECONDS, settings.rounds)
    note = f"folder read and written, {NUM_KEPT} texts kept"
    section.add(figure("one concept withdrawn, and the solve", "1 s", measured, "times as long", 1.0, note))


def _params() -> Params:
    return load_params(PROJECT / "params.yaml").model_copy(update={"sampler": sampler(math.inf)})
