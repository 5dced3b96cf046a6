"""Sums kept in files: what they hold, whose they are, and many concepts that are added and withdrawn."""

import json
import math
import shutil
from contextlib import chdir

import pytest
import torch
import yaml
from safetensors import safe_open
from typer.testing import CliRunner

from realera.commands.cli import app
from realera.erasures.artifact import read_erasure
from realera.families import cross_attention
from realera.methods.common.closed_form import Gram
from realera.methods.realera.perturb import expect, sample_blocks
from realera.methods.realera.rows import solve_grams
from realera.methods.realera.sampling import mine
from realera.methods.realera.sums import (
    Matrices,
    Tokens,
    file_name,
    no_grams,
    read_sums,
    read_target,
    target_sums,
    total_sums,
    write_sums,
    write_target,
)
from realera.methods.realera.together import Together
from realera.settings.config import load_params
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset
from realera.store.artifacts import read_safetensors, write_safetensors
from realera.store.paths import place
from realera.text import prompts
from realera.text.prompt_table import PromptTable

PRESETS = ("airplane", "cat", "deer")
KEPT = ["fox", "guitar", "cat", "deer", "airplane"]


def make_table(pipe, name, num_templates=2, targets=None, anchors=None):
    preset = load_preset(name)
    if targets:
        preset = preset.model_copy(update={"targets": targets, "anchors": anchors})
    kept = [word for word in KEPT if word not in preset.targets]
    built = prompts.build(preset, kept, num_templates, 1)
    tokens = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    return PromptTable(built, tokens, prompts.embed([p.text for p in built], pipe.tokenizer, pipe.text_encoder))


@pytest.fixture(scope="module")
def several(pipe):
    return make_table(pipe, "airplane", 1, ("airplane", "fire engine", "cat"), ("sun", "sun", "moon"))


@pytest.fixture(params=[(math.inf, math.inf, "concept"), (math.inf, 2, "concept_to_end"), (3, 0, "concept_to_end")])
def sampler(request):
    number, beyond, span = request.param
    return load_params().sampler.model_copy(update={"M": number, "N": beyond, "span": span})


def found_sums(table, sampler):
    blocks = [block for block, _ in sample_blocks(table, sampler)]
    return list(target_sums(table, sampler, expect(table, sampler), lambda: blocks))


def assert_equal(one, other, tolerance=0.0):
    for name in no_grams(1):
        assert one[name].num_rows == other[name].num_rows
        for left, right in ((one[name].source, other[name].source), (one[name].cross, other[name].cross)):
            torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance * float(right.abs().max()))


def test_each_target_has_a_file_and_the_files_are_the_sum(several, sampler, tmp_path):
    found = found_sums(several, sampler)
    assert [each.target for each in found] == ["airplane", "fire engine", "cat"]
    write_sums(found, tmp_path / "sums")
    assert {path.name for path in (tmp_path / "sums").iterdir()} == {file_name(each.target) for each in found}
    for each in found:
        again = read_target(tmp_path / "sums" / file_name(each.target))
        assert (again.target, again.content, type(again.form)) == (each.target, each.content, type(each.form))
        assert_equal(again.grams(), each.grams())
        written = (tmp_path / "sums" / file_name(each.target)).read_bytes()
        write_target(again, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == written
    total = no_grams(several.width)
    for each in found:
        each.form.add_to(total)
    assert_equal(read_sums(tmp_path / "sums", several, sampler), total, 1e-12)
    assert total["target"].num_rows == sum(len(pair.tokens) for pair in several.pairs(sampler.span))


def test_what_is_smaller_is_kept(several):
    """Few tokens stand for their sums; many tokens, and samples, do not."""
    exact = load_params().sampler.model_copy(update={"M": math.inf, "N": math.inf})
    forms = {
        span: {type(each.form) for each in found_sums(several, exact.model_copy(update={"span": span}))}
        for span in ("concept", "concept_to_end")
    }
    assert forms["concept"] == {Tokens}
    assert len(several.pairs("concept_to_end")[0].tokens) < several.width
    assert {type(each.form) for each in found_sums(several, exact.model_copy(update={"N": 1}))} == {Matrices}


def test_prompts_may_come_in_any_order(several):
    """The moments belong to their tokens, not to a place in the table."""
    exact = load_params().sampler.model_copy(update={"M": math.inf, "N": math.inf, "span": "concept"})
    order = list(range(len(several.prompts)))[::-1]
    turned = PromptTable(
        [several.prompts[i] for i in order], [several.tokens[i] for i in order], several.embeddings[order]
    )
    before = {each.target: each for each in found_sums(several, exact)}
    for each in found_sums(turned, exact):
        assert_equal(each.grams(), before[each.target].grams(), 1e-12)


def test_a_target_alone_has_the_sums_that_it_has_among_others(several, pipe):
    exact = load_params().sampler.model_copy(update={"M": math.inf, "N": math.inf})
    alone = make_table(pipe, "airplane", 1, ("cat",), ("moon",))
    (one,) = found_sums(alone, exact)
    among = next(each for each in found_sums(several, exact) if each.target == "cat")
    assert one.content == among.content
    assert_equal(one.grams(), among.grams(), 1e-12)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda tensors: {**tensors, "target.source": tensors["target.source"][:5]}, "no sums of a target"),
        (lambda tensors: {**tensors, "neighbor.cross": tensors["neighbor.cross"].float()}, "no sums of a target"),
        (lambda tensors: {**tensors, "beyond.source": tensors["beyond.source"] * math.nan}, "no sums of a target"),
        (lambda tensors: {name: each for name, each in tensors.items() if name != "target.cross"}, "no sums of a"),
    ],
)
def test_a_spoiled_file_is_named(several, tmp_path, spoil, problem):
    sampler = load_params().sampler.model_copy(update={"M": 2, "N": 2})
    write_sums(found_sums(several, sampler), tmp_path)
    path = tmp_path / file_name("cat")
    with safe_open(path, framework="np") as file:
        about = file.metadata()
    write_safetensors(spoil(read_safetensors(path)), path, about)
    with pytest.raises(ArtifactError, match=f"{path.name}: .*{problem}"):
        read_sums(tmp_path, several, sampler)


def test_sums_of_other_prompts_or_another_sampler_are_refused(several, pipe, tmp_path):
    sampler = load_params().sampler.model_copy(update={"M": math.inf, "N": math.inf})
    write_sums(found_sums(several, sampler), tmp_path)
    other = make_table(pipe, "airplane", 1, ("airplane", "fire engine", "cat"), ("moon", "sun", "sun"))
    for table, params in ((other, sampler), (several, sampler.model_copy(update={"D1": 0.3}))):
        with pytest.raises(
            ArtifactError, match=r"airplane-0f488683.safetensors: not of this prompts.parquet and sampler"
        ):
            read_sums(tmp_path, table, params)
    (tmp_path / file_name("cat")).unlink()
    with pytest.raises(ArtifactError, match=f"{file_name('cat')}: a file is needed here, found nothing"):
        read_sums(tmp_path, several, sampler)


# --- many concepts


@pytest.fixture
def project(tmp_path, repository, pipe):
    """A project in which three presets are mined, on the embedded model."""
    params = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    params["sampler"] |= {"M": "inf", "N": "inf"}
    params["encode"]["num_templates"] = 2
    params["model"] |= {"id": str(repository / "data/models/tiny-sd"), "device": "cpu"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shutil.copytree(repository / "data/prompts", tmp_path / "data/prompts")
    shutil.copytree(repository / "data/concepts", tmp_path / "data/concepts")
    with chdir(tmp_path):
        for name in PRESETS:
            make_table(pipe, name).write(place(name).prompts)
            mine(place(name), load_preset(name), load_params())
        yield tmp_path


def run(*arguments):
    done = CliRunner().invoke(app, ["solve", *arguments])
    return done.exit_code, (done.output if done.exit_code == 0 else done.stderr)


def fresh(names, weights):
    """Return the weights of a solve of all at once, with arithmetic of its own: tables in, no file of sums."""
    params = load_params()
    tables = [PromptTable.read(place(name).prompts) for name in names]
    total = no_grams(tables[0].width)
    texts = [
        {p.text: table.embeddings[i] for i, p in enumerate(table.prompts) if p.role == "preserve"} for table in tables
    ]
    kept = Gram(tables[0].width, stays=True)
    kept.add(torch.cat([texts[0][text] for text in texts[0] if all(text in each for each in texts)]))
    for table in tables:
        for name, gram in total_sums(table, params.sampler, expect(table, params.sampler), list).items():
            total[name].merge(gram)
    solution = solve_grams({**total, "preserve": kept}, params.solver)
    return {name: weight.double() @ solution.map for name, weight in weights.items()}


@pytest.mark.parametrize("span", ["concept", "concept_to_end"])
def test_adding_and_withdrawing_equals_the_solve_of_those_that_are_in(project, pipe, span):
    text = (project / "params.yaml").read_text(encoding="utf-8").replace("concept_to_end", span)
    (project / "params.yaml").write_text(text, encoding="utf-8")
    for name in PRESETS:
        mine(place(name), load_preset(name), load_params())
    weights = cross_attention.weights(pipe.unet)
    assert run("joint", "--add", "airplane", "--add", "cat")[0] == 0
    assert run("joint", "--add", "deer", "--withdraw", "cat")[0] == 0
    together = Together.read(project / "joint")
    assert sorted(together.targets) == ["airplane", "deer"]
    solution = solve_grams(
        {name: together.grams[name] for name in ("target", "neighbor", "preserve", "beyond")}, load_params().solver
    )
    for name, wanted in fresh(("airplane", "deer"), weights).items():
        found = weights[name].double() @ solution.map
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-9
    erasure = read_erasure("joint")
    assert erasure.about.pairs == (("airplane", "sun"), ("deer", load_preset("deer").anchors[0]))
    assert run("joint", "--add", "cat")[0] == 0
    assert run("joint", "--withdraw", "cat")[0] == 0
    for name, weight in read_erasure("joint").overlay.items():
        torch.testing.assert_close(weight, erasure.overlay[name], rtol=1e-6, atol=1e-7)


def test_what_one_member_erases_is_not_kept_for_another(project):
    code, output = run("joint", "--add", "airplane")
    assert code == 0
    assert "1 erased (airplane)" in output
    kept = [any("cat" in text for text in Together.read(project / "joint").kept())]
    assert run("joint", "--add", "cat")[0] == 0
    kept.append(any("cat" in text for text in Together.read(project / "joint").kept()))
    assert run("joint", "--withdraw", "cat")[0] == 0
    kept.append(any("cat" in text for text in Together.read(project / "joint").kept()))
    assert kept == [True, False, True]


def test_the_folder_is_an_erasure_that_draws(project, pipe):
    from realera.erasures.apply import apply_erasure, remove_erasure

    run("joint", "--add", "airplane")
    before = {name: weight.clone() for name, weight in cross_attention.weights(pipe.unet).items()}
    apply_erasure(pipe, project / "joint")
    assert any(not torch.equal(before[name], weight) for name, weight in cross_attention.weights(pipe.unet).items())
    remove_erasure(pipe)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["joint", "--add", "airplane"], "--add: found 'airplane', which is in already; accepted: another preset"),
        (["joint", "--withdraw", "fox"], "--withdraw: found 'fox', which is not in; there are: airplane"),
        (["joint", "--withdraw", "airplane"], "after which no target would be left"),
        (["joint", "--add", "bird"], "artifacts/bird/realera/sums: not there yet; made by: dvc repro mine@bird"),
        (["new"], "new: found no members.json; accepted: a folder of an earlier call, or --add"),
        (["artifacts", "--add", "airplane"], "artifacts: found something that is no erasure"),
    ],
)
def test_what_cannot_be_done_changes_nothing(project, arguments, problem):
    run("joint", "--add", "airplane")
    before = {path.name: path.read_bytes() for path in (project / "joint").iterdir()}
    code, message = run(*arguments)
    assert code == 1
    assert problem in message
    assert message.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (project / "joint").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"sampler": {"D1": 0.3}},
            "sampler: found other values than the members of the folder were mined by (cat)",
        ),
        ({"model": {"id": "elsewhere"}}, "elsewhere"),
    ],
)
def test_members_of_another_model_or_sampler_are_refused(project, change, problem):
    run("joint", "--add", "airplane")
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for section, values in change.items():
        params[section] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    code, message = run("joint", "--add", "cat")
    assert code == 1
    assert problem in message


def test_a_target_that_was_mined_anew_cannot_be_withdrawn(project, pipe):
    run("joint", "--add", "airplane", "--add", "cat")
    make_table(pipe, "cat", 3).write(place("cat").prompts)
    mine(place("cat"), load_preset("cat"), load_params())
    code, message = run("joint", "--withdraw", "cat")
    assert code == 1
    assert "cat: its sums are not those that were added" in message


def test_a_spoiled_folder_is_named(project):
    run("joint", "--add", "airplane")
    (project / "joint/members.json").write_text("{}", encoding="utf-8")
    code, message = run("joint", "--add", "cat")
    assert (code, "members.json: model: missing" in message) == (1, True)
    assert json.loads((project / "joint/members.json").read_text(encoding="utf-8")) == {}
