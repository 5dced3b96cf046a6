"""The solve beside the loops that the field publishes, beside its floor, and with more matrices."""

import torch

from benchmarks.reference import (
    PRESERVE_SCALE,
    RIDGE,
    Problem,
    SumOf,
    edited,
    loop_seconds,
    matrix_product,
    outer_products,
)
from benchmarks.sizes import SPAN, weights
from benchmarks.timing import Section, Settings, alternate, figure, timed
from realera.methods.common.closed_form import Gram, Solution, solve
from realera.settings.errors import RealEraError

TOLERANCE = 1e-9
"""Largest difference from the loop in float64, in parts of the largest weight."""

AIM = 100.0
Terms = list[tuple[torch.Tensor, torch.Tensor]]
CASES = ((1, 10), (10, 100), (100, 1000), (1000, 1000))
"""Concepts erased and preserved."""

LOOPS: dict[str, tuple[int, SumOf, tuple[int, int, int]]] = {
    "UCE 2024, last token": (1, outer_products, (11, 50, 200)),
    "UCE 2023, 70 tokens": (SPAN, outer_products, (2, 2, 4)),
    "same, one product a concept": (SPAN, matrix_product, (4, 11, 40)),
}
"""Loop -> tokens of a concept, how it sums, and most concepts that are measured at each size."""


def measure(settings: Settings) -> Section:
    """Measure all cases, flatness and floor."""
    section = Section()
    for num_erased, num_preserved in settings.pick(CASES[:1], CASES[:3], CASES):
        for name in LOOPS:
            _measure_case(section, settings, name, num_erased, num_preserved)
    terms = gram_terms(Problem.random(*settings.pick((1, 10), (10, 100), (100, 1000)), SPAN))
    _measure_floor(section, settings, terms)
    _measure_flatness(section, settings, terms)
    return section


def gram_terms(problem: Problem) -> Terms:
    """Return equation 7's weighted sums, printed as UCE's: not divided by the number of tokens."""
    erase, keep = Gram(problem.width), Gram(problem.width)
    erase.add(problem.erased.flatten(0, 1), problem.anchors.flatten(0, 1))
    keep.add(problem.preserved.flatten(0, 1))
    return [erase.scaled(1.0, False), keep.scaled(PRESERVE_SCALE, False)]


def solved(terms: Terms) -> Solution:
    """Solve with UCE's ridge, which is absolute; ours counts in mean eigenvalues."""
    trace = sum(float(source.trace()) for source, _ in terms)
    return solve(terms, RIDGE * len(terms[0][0]) / trace)


def ours(problem: Problem, matrices: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the new matrices: sums, factorization, condition number and products."""
    solution = solved(gram_terms(problem))
    return {name: solution.apply(weight) for name, weight in matrices.items()}


def difference(problem: Problem, rows: tuple[int, ...]) -> float:
    """Return how far ours is from the loop in float64, in parts of the largest weight.

    Raises:
        RealEraError: farther than TOLERANCE.
    """
    matrices = {name: weight.double() for name, weight in weights(dict.fromkeys(rows, 1), problem.width).items()}
    new, most = ours(problem, matrices), 0.0
    for name, weight in matrices.items():
        wanted = edited(weight, problem)
        most = max(most, float((new[name] - wanted).abs().max() / wanted.abs().max()))
    if not most <= TOLERANCE:
        raise RealEraError(f"solve: found a difference of {most:.1e} from the loop; accepted: {TOLERANCE:.0e}")
    return most


def _measure_case(section: Section, settings: Settings, name: str, num_erased: int, num_preserved: int) -> None:
    num_tokens, sum_of, limits = LOOPS[name]
    problem, limit = Problem.random(num_erased, num_preserved, num_tokens), settings.pick(*limits)
    is_large = len(problem) * num_tokens > 10_000
    apart = difference(problem, (320,) if is_large else (320, 640, 1280))
    matrices = weights()
    measured = alternate(
        timed(lambda: ours(problem, matrices)),
        lambda: loop_seconds(problem, sum_of, limit),
        settings.pick(1, 2, 3) if is_large else settings.rounds,
        warm_up=not is_large,
    )
    note = (
        f"loop on 3 of 32 matrices and {min(limit, len(problem)):,} of {len(problem):,} concepts; differs {apart:.0e}"
    )
    line = figure(f"{num_erased:,} erased + {num_preserved:,} preserved", name, measured, "times as fast", AIM, note)
    section.add(line)
    section.mark(f"loop: {name}", num_erased, line.other)
    if sum_of is outer_products:
        section.mark(f"RealEra, {name.partition(', ')[2]}", num_erased, line.ours)


def _measure_floor(section: Section, settings: Settings, terms: Terms) -> None:
    """One Cholesky factorization and 32 products, in float64 as ours."""
    matrices = weights()
    solution = solved(terms)

    def after_sums() -> None:
        found = solved(terms)
        for weight in matrices.values():
            found.apply(weight)

    def floor() -> None:
        torch.linalg.cholesky(solution.A)
        for weight in matrices.values():
            solution.apply(weight)

    measured = alternate(timed(after_sums), timed(floor), settings.rounds)
    line = figure("all after the sums", "floor: one Cholesky of 768 and 32 products", measured, "times as long")
    section.add(line)


def _measure_flatness(section: Section, settings: Settings, terms: Terms) -> None:
    """What a K and V pair of each size (6 matrices) takes, and all 32."""
    few, many = weights({320: 2, 640: 2, 1280: 2}), weights()

    def solve_for(matrices: dict[str, torch.Tensor]) -> None:
        solution = solved(terms)
        for weight in matrices.values():
            solution.apply(weight)

    measured = alternate(timed(lambda: solve_for(many)), timed(lambda: solve_for(few)), settings.rounds)
    note = "the loop takes 5.6 times as long: it does all again for each row"
    section.add(figure("32 matrices, after the sums", "6 matrices", measured, "times as long", 1.5, note))
