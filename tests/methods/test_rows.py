"""From prompts and samples to K/V weights: which pairs enter equation 7, on the embedded model's own embeddings."""

import pytest
import torch

from realera.families import cross_attention
from realera.methods.realera import perturb as neighborhood
from realera.methods.realera.phrases import candidates, nearest_phrases
from realera.methods.realera.rows import meetings, sample_rows, solve_sums, text_rows
from realera.methods.realera.samples import SampleTable
from realera.methods.realera.sums import no_grams, total_sums
from realera.settings.config import load_params
from realera.settings.errors import ConfigError, MiningError
from realera.settings.presets import load_preset
from realera.text import prompts
from realera.text.prompt_table import PromptTable
from realera.text.vocabulary import read_vocabulary


@pytest.fixture(scope="module")
def params():
    params = load_params()
    sampler = params.sampler.model_copy(update={"M": 3, "N": 2})
    encode = params.encode.model_copy(update={"num_templates": 2})
    return params.model_copy(update={"sampler": sampler, "encode": encode})


@pytest.fixture(scope="module")
def table(pipe):
    built = prompts.build(load_preset("airplane"), ["fox", "guitar", "fire engine"], 2, 1)
    tokens = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    return PromptTable(built, tokens, prompts.embed([p.text for p in built], pipe.tokenizer, pipe.text_encoder))


@pytest.fixture(scope="module")
def samples(table, params):
    return neighborhood.sample(table, params.sampler)[0]


@pytest.fixture(scope="module")
def weights(pipe):
    return {name: weight.clone() for name, weight in cross_attention.weights(pipe.unet).items()}


def sampler(params, **changes):
    return params.sampler.model_copy(update=changes)


def solved(weights, table, samples, params, **solver):
    """Solve with the sums of some samples."""
    sums = total_sums(table, params.sampler, {}, lambda: [samples])
    return solve_sums(weights, table, sums, params.sampler.span, params.solver.model_copy(update=solver))


def rows_of(table, samples, params):
    span = params.sampler.span
    return text_rows(table, span) | sample_rows(table, samples, meetings(table, table.pairs(span)))


def test_tables_come_back_from_their_files(table, samples, tmp_path):
    table.write(tmp_path / "p.parquet")
    again = PromptTable.read(tmp_path / "p.parquet")
    assert torch.equal(again.embeddings, table.embeddings)
    assert list(again.tokens) == list(table.tokens)
    assert [(p.text, p.role, p.pair_id) for p in again.prompts] == [(p.text, p.role, p.pair_id) for p in table.prompts]
    samples.write(tmp_path / "s.parquet")
    back = SampleTable.read(tmp_path / "s.parquet")
    assert torch.equal(back.eta, samples.eta)
    assert (back.is_neighbor == samples.is_neighbor).all()
    bytes_before = (tmp_path / "s.parquet").read_bytes()
    back.write(tmp_path / "s.parquet")
    assert (tmp_path / "s.parquet").read_bytes() == bytes_before


def test_every_perturbed_token_has_m_neighbors_and_n_beyond(table, samples, params):
    for pair in table.pairs(params.sampler.span):
        own = samples.prompt_id == pair.target_id
        for token, _ in pair.tokens:
            here = own & (samples.token == token)
            assert (samples.is_neighbor & here).sum() == 3
            assert (~samples.is_neighbor & here).sum() == 2
    assert 0 not in samples.token  # never BOS


def test_samples_obey_the_thresholds_around_their_own_token(table, samples, params):
    e = table.embeddings[samples.prompt_id.astype(int), samples.token.astype(int)].double()
    eta, near = samples.eta.double(), torch.from_numpy(samples.is_neighbor)
    relative = (eta.norm(dim=1) / e.norm(dim=1)).float()
    cosine = torch.cosine_similarity(e, e + eta)
    assert (relative[near] <= params.sampler.D1 + 1e-6).all()
    assert (cosine[near] >= params.sampler.S2 - 1e-6).all()
    assert (relative[~near] >= params.sampler.D1 - 1e-6).all()
    assert (cosine[~near] < params.sampler.S2 + 1e-6).all()
    ratio = samples.anchor_eta().norm(dim=1) / e.norm(dim=1)
    assert (ratio[near] <= params.sampler.D1_anchor + 1e-6).all()
    assert (ratio[~near] == 0).all()


def test_rows_of_equation_7(table, samples, params):
    rows = rows_of(table, samples, params)
    pairs = table.pairs(params.sampler.span)
    num_tokens = sum(len(pair.tokens) for pair in pairs)
    assert {name: len(source) for name, (source, _) in rows.items()} == {
        "target": num_tokens,
        "neighbor": 3 * num_tokens,
        "preserve": len(table.preserved()),
        "beyond": 2 * num_tokens,
    }
    own, other = pairs[0].tokens[0]
    assert torch.equal(rows["target"][0][0], table.embeddings[pairs[0].target_id, own])
    assert torch.equal(rows["target"][1][0], table.embeddings[pairs[0].anchor_id, other])
    assert torch.equal(rows["preserve"][0], rows["preserve"][1])
    assert torch.equal(rows["beyond"][0], rows["beyond"][1])


def test_the_erasure_moves_the_target_to_the_anchor_and_leaves_the_rest(table, samples, weights, params):
    found = solved(weights, table, samples, params)
    for layer in found.report["layers"]:
        assert layer["erase_after"] < 0.5 * layer["erase_before"]
        assert layer["preserve_after"] < 0.2
    assert set(found.weights) == set(weights)
    assert found.report["condition_number"] > 1


def test_every_matrix_is_at_the_minimum_of_equation_7(table, samples, weights, params):
    """Zero gradient of the printed sums, with independent arithmetic, for each K and V."""
    found = solved(weights, table, samples, params, sums="raw")
    rows = rows_of(table, samples, params)
    ridge = found.report["ridge"]
    for name, old in weights.items():
        old_, new = old.double(), found.weights[name].double()
        gradient, scale = ridge * (new - old_), 0.0
        for group, (source, target) in rows.items():
            factor = 1.0 if group in ("target", "neighbor") else params.solver.lambda1
            s, t = source.double(), target.double()
            gradient = gradient + factor * (new @ s.T - old_ @ t.T) @ s
            scale += factor * (old_ @ t.T @ s).norm()
        assert gradient.norm() / scale < 1e-6


def test_component_a_switches_off(table, samples, weights, params):
    found = solved(weights, table, samples, params, enabled=False)
    assert all(torch.equal(found.weights[name], weights[name]) for name in weights)


def test_no_samples_at_all(table, weights, params):
    nothing, _ = neighborhood.sample(table, sampler(params, M=0, N=0))
    assert len(nothing) == 0
    found = solved(weights, table, nothing, params)
    assert found.report["rows"]["neighbor"] == found.report["rows"]["beyond"] == 0


def test_infeasible_thresholds_are_refused(table, params):
    with pytest.raises(MiningError, match=r"sampler\.\w+: found .*nearest feasible"):
        neighborhood.sample(table, sampler(params, D1=0.05, S1=0.9, S2=0.5, D1_anchor=0.0))


def test_a_model_of_another_width(table, params):
    with pytest.raises(ConfigError, match=r"width 7, prompts.parquet has 128"):
        solve_sums(
            {"x.to_k.weight": torch.zeros(3, 7)}, table, no_grams(table.width), params.sampler.span, params.solver
        )


def test_fresh_perturbations_move_only_the_span(table, samples, params):
    perturb = neighborhood.perturber(table, samples, params.sampler)
    near, far = perturb(1, torch.Generator().manual_seed(0))
    pair = table.pairs(params.sampler.span)[1]
    original, first = table.embeddings[pair.target_id], pair.tokens[0][0]
    for moved in (near, far):
        assert torch.equal(moved[:first], original[:first])
        assert (moved[first:] != original[first:]).any(dim=1).all()
    again, _ = perturb(1, torch.Generator().manual_seed(0))
    assert torch.equal(again, near)
    assert neighborhood.perturber(table, samples, sampler(params, M=0, N=0))(0, torch.Generator()) == (None, None)


def test_text_neighbors_are_the_nearest_words_that_nobody_judges(table, params, tiny_sd):
    text = params.model_copy(update={"sampler": sampler(params, source="text", M=2, N=0)})
    preset = load_preset("airplane")
    found, words = nearest_phrases(table, preset, text)
    assert len(words) == 2
    assert not set(words) & {"airplane", "sun", "cat", "fox", *preset.all_synonyms()}
    assert found.is_neighbor.all()
    assert (found.anchor_radius == 0).all()
    pair = table.pairs(text.sampler.span)[0]
    rows = (found.prompt_id == pair.target_id) & (found.sample_id == 0)
    moved = table.embeddings[pair.target_id, found.token[rows].astype(int)] + found.eta[torch.from_numpy(rows)]
    assert torch.isfinite(moved).all()
    assert set(candidates(preset, read_vocabulary(tiny_sd))) >= set(words)
    perturb = neighborhood.perturber(table, found, text.sampler)
    near, _ = perturb(0, torch.Generator().manual_seed(0))
    assert (near != table.embeddings[pair.target_id]).any()


def test_given_phrases_are_used(params):
    preset = load_preset("airplane").model_copy(update={"neighbors": ("tractor", "jet", "balloon", "rocket")})
    assert candidates(preset, ["fox"]) == ["tractor", "balloon"]  # a synonym and a look-alike are judged
    with pytest.raises(ConfigError, match="there are no phrases"):
        candidates(preset.model_copy(update={"neighbors": ("jet", "cat")}), [])
