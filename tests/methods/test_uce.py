"""UCE's closed form beside its published algorithm, matrix by matrix and token by token."""

from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
import yaml

from realera.erasures.apply import apply_erasure, remove_erasure
from realera.erasures.artifact import weights_sha256
from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.methods.seam import Task, check_task, find_method, method_names
from realera.methods.uce.method import erase, preserve_scale
from realera.settings.config import load_params
from realera.settings.errors import ConfigError
from realera.settings.presets import Preset
from realera.text.encoding import encode_preset

LENGTH = 77
TARGETS = {"airplane": "sun", "flying saucer": "cat", "robot": "red sailing ship"}
"""Names of one and of several tokens, on either side."""

PRESERVED = ["dog", "flying saucer on a ship", "", "a red car"]
PRESET = {
    "task": "object",
    "targets": list(TARGETS),
    "anchors": list(TARGETS.values()),
    "synonyms": {},
    "classes": "cifar10",
    "preserve": {"lists": [], "texts": PRESERVED},
    "templates": "object",
    "neighbors": [],
    "draw": {},
    "judged": {},
}
READINGS = ("current", "legacy")
NUM_TEMPLATES = 15
"""As many as it takes for one in which something stands behind the name."""


@pytest.fixture(scope="module")
def model(tiny_sd):
    return open_pipeline(tiny_sd, device="cpu")


@pytest.fixture(scope="module")
def new_task(tiny_sd, model):
    """Makes a task of the project's parameters with other values of the section uce, of a preset with other values."""

    def new_task(preset=(), num_templates=3, **uce) -> Task:
        params = load_params()
        params = params.model_copy(
            update={
                "uce": params.uce.model_copy(update=uce),
                "encode": params.encode.model_copy(update={"num_templates": num_templates}),
                "model": params.model.model_copy(update={"device": "cpu", "dtype": "float32"}),
            }
        )
        preset = Preset.model_validate(PRESET | dict(preset))
        table = encode_preset(preset, params.encode, model, str(tiny_sd))
        opened = partial(open_pipeline, **params.model.model_dump())
        return Task("test", preset, params, table, "stable_diffusion", opened, lambda: pytest.fail("no latents"))

    return new_task


# --- the published algorithm


class Published:
    """UCE as its authors' code has it: a loop over matrices, names and tokens, in float64 where that code has float32.

    Args:
        pipe: the unedited model.
        reading: legacy, of 2023, or current.
    """

    def __init__(self, pipe, reading):
        self.pipe, self.reading = pipe, reading

    @cache  # noqa: B019  lives as long as the test
    def read(self, text):
        """Return what the image model reads of a text [77, d], and the index of its last token before the end."""
        tokens = self.pipe.tokenizer(
            text, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            read = self.pipe.text_encoder(tokens.input_ids)[0][0]
        return read.double(), self.last_token(text)

    def last_token(self, text):
        return int(self.pipe.tokenizer(text, return_tensors="pt").attention_mask[0].sum()) - 2

    def erased(self, old, new):
        """Return the vectors of a name and of what it becomes; each is a text and the part of it that is the name."""
        (old_read, old_last), (new_read, new_last) = (
            (self.read(text)[0], self.last_token(text[:end])) for text, end in (old, new)
        )
        if self.reading == "current":
            return old_read[[old_last]], new_read[[new_last]]
        farthest = max(old_last, new_last)
        old_read = old_read[old_last : len(old_read) - max(0, farthest - old_last)]
        new_read = new_read[new_last : len(new_read) - max(0, farthest - new_last)]
        assert old_read.shape == new_read.shape
        return old_read, new_read

    def preserved(self, text, end):
        read, _ = self.read(text)
        return read if self.reading == "legacy" else read[[self.last_token(text[:end])]]

    def edit(self, weight, erased, preserved, erase_scale, scale, lamb):
        """Return the new matrix: mat1 mat2^-1, summed up one token after the other."""
        weight = weight.double()
        mat1, mat2 = lamb * weight, lamb * torch.eye(weight.shape[1], dtype=torch.float64)
        for factor, pairs in ((erase_scale, erased), (scale, preserved)):
            for old, new in pairs:
                for context, wanted in zip(old, new, strict=True):
                    context, value = context[:, None], (weight @ wanted)[:, None]
                    mat1 = mat1 + factor * (value @ context.T)
                    mat2 = mat2 + factor * (context @ context.T)
        return mat1 @ torch.inverse(mat2)


def published_names(reading, anchor="preset", preserved=PRESERVED):
    """Return what UCE is given: pairs of names, and texts that stay, each with where its name ends."""
    becomes = {target: new if anchor == "preset" else " " for target, new in TARGETS.items()}
    kept = list(dict.fromkeys([*preserved, ""] if reading == "legacy" else preserved))
    pairs = [((old, len(old)), (new, len(new))) for old, new in becomes.items()]
    return pairs, [(text, len(text)) for text in kept]


def published_weights(pipe, reading, pairs, kept, erase_scale=1.0, scale=None, lamb=0.5):
    """Return every matrix by the published loop, with the published scale unless one is given."""
    published = Published(pipe, reading)
    if scale is None:
        scale = max(0.1, 1 / len(kept)) if reading == "legacy" else 1.0
    erased = [published.erased(old, new) for old, new in pairs]
    preserved = [(vectors, vectors) for vectors in (published.preserved(*text) for text in kept)]
    return {
        name: published.edit(weight, erased, preserved, erase_scale, scale, lamb)
        for name, weight in cross_attention.weights(pipe.unet).items()
    }


def assert_close(erasure, wanted, tolerance=1e-6):
    assert erasure.overlay.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert erasure.overlay[name].dtype == torch.float32
        assert (erasure.overlay[name].double() - weight).norm() <= tolerance * weight.norm(), name


@pytest.mark.parametrize("anchor", ["preset", "empty"])
@pytest.mark.parametrize("reading", READINGS)
def test_names_are_edited_as_published(new_task, model, tmp_path, reading, anchor):
    erasure = erase(new_task(reading=reading, anchor=anchor), tmp_path)
    assert_close(erasure, published_weights(model, reading, *published_names(reading, anchor)))
    assert erasure.report["preserve_scale"] == (0.25 if reading == "legacy" else 1.0)


@pytest.mark.parametrize("reading", READINGS)
def test_scales_and_lamb_stand_where_the_published_ones_do(new_task, model, tmp_path, reading):
    given = {"erase_scale": 0.7, "preserve_scale": 0.3, "lamb": 0.1}
    erasure = erase(new_task(reading=reading, **given), tmp_path)
    wanted = published_weights(model, reading, *published_names(reading), 0.7, 0.3, 0.1)
    assert_close(erasure, wanted)


@pytest.mark.parametrize("reading", READINGS)
def test_templates_are_edited_as_if_they_were_names(new_task, model, tmp_path, reading):
    """The name's last token stands within the text; what follows it is the template's."""
    task = new_task(prompts="templates", reading=reading, num_templates=NUM_TEMPLATES)
    kept = [(prompt.text, prompt.end) for prompt in task.table.prompts if prompt.role == "preserve"]
    found = {role: [p for p in task.table.prompts if p.role == role] for role in ("target", "anchor")}
    assert len(found["target"]) == NUM_TEMPLATES * len(TARGETS)
    assert any(prompt.end < len(prompt.text) for prompt in found["target"])
    pairs = [
        ((old.text, old.end), (new.text, new.end)) for old, new in zip(found["target"], found["anchor"], strict=True)
    ]
    assert_close(erase(task, tmp_path), published_weights(model, reading, pairs, kept))


def test_what_is_preserved_is_named_once_and_legacy_has_the_empty_text_always(new_task, model, tmp_path):
    texts = ["dog", "dog"]
    preset = {"preserve": {"lists": [], "texts": texts}}
    for reading, num_rows, scale in (("current", 1, 1.0), ("legacy", 2 * LENGTH, 0.5)):
        erasure = erase(new_task(preset, reading=reading), tmp_path)
        assert erasure.report["rows"]["preserve"] == num_rows
        assert erasure.report["preserve_scale"] == scale
        assert_close(erasure, published_weights(model, reading, *published_names(reading, preserved=texts)))


def test_words_of_the_presets_lists_are_preserved_too(new_task, model, tmp_path):
    preset = {"preserve": {"lists": ["cifar10"], "texts": ["a red car"]}}
    task = new_task(preset)
    words = [prompt.text for prompt in encode_names(task) if prompt.role == "preserve"]
    assert words[-1] == "a red car"
    assert {"cat", "dog", "ship"} <= set(words)
    assert "airplane" not in words  # a target
    wanted = published_weights(model, "current", *published_names("current", preserved=words))
    assert_close(erase(task, tmp_path), wanted)


def encode_names(task):
    from realera.methods.uce.method import published_prompts

    return published_prompts(task).prompts


# --- its scale


@pytest.mark.parametrize(
    ("reading", "given", "number", "wanted"),
    [
        ("legacy", None, 1, 1.0),
        ("legacy", None, 4, 0.25),
        ("legacy", None, 10, 0.1),
        ("legacy", None, 1000, 0.1),
        ("current", None, 1, 1.0),
        ("current", None, 1000, 1.0),
        ("legacy", 0.0, 4, 0.0),
        ("current", 0.3, 4, 0.3),
    ],
)
def test_scale_of_what_is_preserved(reading, given, number, wanted):
    params = load_params().uce.model_copy(update={"reading": reading, "preserve_scale": given})
    assert preserve_scale(params, number) == wanted


# --- what the solution is


@pytest.mark.parametrize("reading", READINGS)
def test_every_matrix_is_at_the_minimum_of_the_objective(new_task, model, tmp_path, reading):
    """Zero gradient of the printed sums, by automatic differentiation: nothing of the algebra is in it."""
    erasure = erase(new_task(reading=reading), tmp_path)
    published = Published(model, reading)
    pairs, kept = published_names(reading)
    erased = [published.erased(*pair) for pair in pairs]
    sources, targets = (torch.cat(vectors) for vectors in zip(*erased, strict=True))
    preserved = torch.cat([published.preserved(*text) for text in kept])
    scale = max(0.1, 1 / len(kept)) if reading == "legacy" else 1.0

    def objective(weight, old):
        lost = (sources @ weight.T - targets @ old.T).square().sum()
        return lost + scale * ((weight - old) @ preserved.T).square().sum() + 0.5 * (weight - old).square().sum()

    for name, old in cross_attention.weights(model.unet).items():
        gradients = []
        for weight in (erasure.overlay[name], old):
            weight = weight.double().clone().requires_grad_()
            objective(weight, old.double()).backward()
            gradients.append(float(weight.grad.norm()))
        assert gradients[0] < 1e-5 * gradients[1], name


def test_only_the_cross_attentions_k_and_v_change(new_task, model, tmp_path):
    erasure = erase(new_task(), tmp_path)
    weights = cross_attention.weights(model.unet)
    assert erasure.overlay.keys() == weights.keys()
    assert not erasure.adapter
    before = {name: weight.detach().clone() for name, weight in model.unet.named_parameters()}
    apply_erasure(model, erasure)
    try:
        changed = {name for name, weight in model.unet.named_parameters() if not torch.equal(weight, before[name])}
    finally:
        remove_erasure(model)
    assert changed == weights.keys()


def test_the_erasure_says_what_it_is(new_task, model, tmp_path):
    task = new_task()
    about = erase(task, tmp_path).about
    assert (about.method, about.family) == ("uce", "stable_diffusion")
    assert about.pairs == tuple(TARGETS.items())
    assert about.base.id == task.params.model.id
    assert about.base.sha256 == weights_sha256(cross_attention.weights(model.unet))
    assert about.parameters == {"uce": task.params.uce.model_dump(mode="json")}
    of_templates = erase(new_task(prompts="templates"), tmp_path).about
    assert of_templates.parameters.keys() == {"encode", "uce"}


def test_the_same_bits_twice(new_task, tmp_path):
    one, two = (erase(new_task(reading="legacy"), tmp_path) for _ in range(2))
    assert all(torch.equal(one.overlay[name], two.overlay[name]) for name in one.overlay)


def test_targets_meet_their_anchors_and_the_rest_stays(new_task, model, tmp_path):
    erasure = erase(new_task(), tmp_path)
    published = Published(model, "current")
    pairs, kept = published_names("current")
    for name, old in cross_attention.weights(model.unet).items():
        old, new = old.double(), erasure.overlay[name].double()
        for pair in pairs:
            source, target = published.erased(*pair)
            assert (source @ new.T - target @ old.T).norm() < 0.2 * (source @ old.T - target @ old.T).norm()
        for text in kept:
            vectors = published.preserved(*text)
            assert (vectors @ (new - old).T).norm() < 0.1 * (vectors @ old.T).norm()


# --- what is refused


@pytest.fixture
def params_file(tmp_path, repository):
    """Writes a params.yaml with other values of the section uce."""

    def write(**uce):
        params = yaml.safe_load((repository / "params.yaml").read_text())
        params["uce"] |= uce
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        return tmp_path / "params.yaml"

    return write


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reading": "old"}, "uce.reading: found \"old\"; accepted: 'current' or 'legacy'"),
        ({"prompts": "all"}, "uce.prompts: found \"all\"; accepted: 'names' or 'templates'"),
        ({"anchor": "none"}, "uce.anchor: found \"none\"; accepted: 'preset' or 'empty'"),
        ({"lamb": 0}, "uce.lamb: found 0; accepted: greater than 0"),
        ({"erase_scale": -1}, "uce.erase_scale: found -1; accepted: greater than 0"),
        ({"preserve_scale": -0.5}, "uce.preserve_scale: found -0.5; accepted: "),
        ({"lamp": 1}, "uce.lamp: unknown key; did you mean lamb?"),
        ({"prompts": "templates", "anchor": "empty"}, "uce: found {"),
    ],
)
def test_unknown_values_are_refused_with_their_key(params_file, values, said):
    with pytest.raises(ConfigError) as caught:
        load_params(params_file(**values))
    (line,) = str(caught.value).splitlines()
    assert f"params.yaml: {said}" in line
    if values.get("anchor") == "empty":
        assert line.endswith(
            "accepted: anchor preset where prompts are templates, which hold the preset's anchors; found empty"
        )


def test_a_lamb_that_is_too_small_is_named(new_task, tmp_path):
    task = new_task({"preserve": {"lists": [], "texts": []}}, lamb=1e-300)
    with pytest.raises(
        ConfigError, match=r"^uce\.lamb: found 1e-300, too small for these embeddings; accepted: larger"
    ):
        erase(task, tmp_path)


# --- the seam


def test_methods_are_found_by_name(repository):
    folders = {path.parent.name for path in (repository / "realera/methods").glob("*/method.py")}
    assert set(method_names()) == folders
    for name in method_names():
        assert callable(find_method(name).erase)
        assert check_task(name, load_params().model) == "stable_diffusion"
    with pytest.raises(ConfigError, match="method: found 'esd-x'; accepted: realera, uce"):
        find_method("esd-x")
    with pytest.raises(ConfigError, match="method: found 'esd-x'; accepted: realera, uce"):
        check_task("esd-x", load_params().model)


def test_a_model_family_that_a_method_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr("realera.methods.seam.family_of", lambda id, revision, fetch: SimpleNamespace(key="other"))
    with pytest.raises(ConfigError, match=r"^method: uce edits stable_diffusion; the model is of the family other"):
        check_task("uce", load_params().model)
