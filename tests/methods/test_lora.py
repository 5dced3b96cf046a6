import copy
import json
import math
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open

from realera.families.cross_attention import patch, weights
from realera.families.stable_diffusion import open_pipeline
from realera.methods.common.lora import CHECKPOINT, add_lora, save_adapter, untouched
from realera.methods.realera.alignment import COLUMNS, Pairs, draw_batch, prediction_errors, train
from realera.settings.config import LoraParams
from realera.settings.errors import ArtifactError, ConfigError
from realera.store.artifacts import write_safetensors
from realera.store.seeds import generator

TEMPLATES = ("a photo of the {}", "a picture of a {}", "an image of the {}")
NUM_IMAGES = 4


@pytest.fixture(autouse=True)
def _one_thread():
    """Bytes are compared between processes, and sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unet(pipe):
    return copy.deepcopy(pipe.unet)


@pytest.fixture(scope="module")
def pairs(pipe) -> Pairs:
    """Airplane to cloud, with clouds that the model drew."""
    with torch.no_grad():
        latents = pipe(
            ["a photo of the cloud"] * NUM_IMAGES,
            num_inference_steps=8,
            guidance_scale=5.0,
            generator=generator("clouds"),
            output_type="latent",
        ).images
    rows = torch.arange(NUM_IMAGES).expand(len(TEMPLATES), -1)
    return Pairs(encode(pipe, "airplane"), encode(pipe, "cloud"), latents, rows)


@torch.no_grad()
def encode(pipe, name):
    texts = [template.format(name) for template in TEMPLATES]
    tokens = pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    return pipe.text_encoder(tokens)[0]


@pytest.fixture
def alphas(pipe):
    return pipe.scheduler.alphas_cumprod


def settings(**changes) -> LoraParams:
    values = {
        "steps": 4,
        "learning_rate": 1e-3,
        "rank": 2,
        "alpha": 2.0,
        "targets": ("to_k", "to_v"),
        "batch_size": 1,
        "gamma1": 1.0,
        "gamma2": 1.0,
        "save_every": 3,
        "mixed_precision": "no",
        "num_processes": 1,
        "gradient_checkpointing": False,
        "seed": 0,
    }
    return LoraParams(**(values | changes))


def miner(pairs, calls=None):
    """Noise a quarter and one and a half times as long as each token, around the target."""

    def mine(pair, generator):
        target_td = pairs.targets_ptd[pair]
        directions = torch.nn.functional.normalize(torch.randn(2, *target_td.shape, generator=generator), dim=-1)
        radii = torch.tensor([0.25, 1.5]).view(2, 1, 1) * target_td.norm(dim=-1, keepdim=True)
        neighbor_td, beyond_td = target_td + radii * directions
        if calls is not None:
            calls.append((pair, neighbor_td, beyond_td))
        return neighbor_td, beyond_td

    return mine


def nothing(pair, generator):
    return None, None


def changed_weights(unet):
    """K/V weights as a closed form might give them."""
    noise = generator("kv")
    return {name: w + 0.3 * w.std() * torch.randn(w.shape, generator=noise) for name, w in weights(unet).items()}


@torch.no_grad()
def output(unet, pairs):
    timesteps = torch.tensor([10, 400, 900])
    return unet(pairs.latents_nchw[:3], timesteps, pairs.targets_ptd).sample


def merged(unet, kv, lora, scale):
    """An own UNet with W = kv + scale * B A, computed without peft."""
    product = {}
    for name in [name for name in lora if "lora_A" in name]:
        b, a = lora[name.replace("lora_A", "lora_B")].detach(), lora[name].detach()
        product[name.split(".lora_A")[0] + ".weight"] = scale * b @ a
    student = copy.deepcopy(unet)
    patch(student, {name: w + product[name] for name, w in kv.items()})
    return student


@torch.no_grad()
def separate_errors(student, teacher, batch):
    z, t = batch.noised_bchw, batch.timesteps_b
    prompts = zip(batch.student_kbtd, batch.teacher_kbtd, strict=True)
    return [((student(z, t, own).sample - teacher(z, t, other).sample) ** 2).mean() for own, other in prompts]


def run(unet, pairs, alphas, folder, mine=None, **changes):
    kv = changes.pop("kv", None)
    return train(unet, pairs, alphas, settings(**changes), folder, mine or miner(pairs), kv, progress=False)


def lora_state(unet):
    return {name: w.detach().clone() for name, w in unet.named_parameters() if "lora_" in name}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# --- what a step draws


def test_latents_are_noised_images_of_the_pairs_own_anchor(pairs):
    rows = torch.tensor([[0], [1], [2]])
    own = Pairs(pairs.targets_ptd, pairs.anchors_ptd, pairs.latents_nchw, rows)
    params = settings(batch_size=16)
    clean, noise, between = (
        draw_batch(own, torch.full((1000,), a), params, nothing, 1, generator(0)).noised_bchw for a in (1.0, 0.0, 0.36)
    )
    prompts = draw_batch(own, torch.ones(1000), params, nothing, 1, generator(0)).student_kbtd[0]
    chosen = [next(p for p in range(3) if torch.equal(prompt, pairs.targets_ptd[p])) for prompt in prompts]
    assert len(set(chosen)) == 3
    assert torch.equal(clean, pairs.latents_nchw[chosen])
    torch.testing.assert_close(between, 0.6 * clean + 0.8 * noise)
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03


def test_pairs_images_and_timesteps_are_uniform(pairs, alphas):
    params = settings(batch_size=500)
    batches = [draw_batch(pairs, alphas, params, nothing, 1, generator(0, step)) for step in range(4)]
    timesteps = torch.cat([batch.timesteps_b for batch in batches]).double()
    assert timesteps.min() < 10
    assert timesteps.max() > 989
    assert timesteps.max() < 1000
    assert abs(timesteps.mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 2000)
    anchors = torch.cat([batch.teacher_kbtd[0] for batch in batches])
    counts = [int((anchors == anchor).flatten(1).all(1).sum()) for anchor in pairs.anchors_ptd]
    assert sum(counts) == 2000
    assert max(abs(count - 2000 / 3) for count in counts) < 4 * math.sqrt(2000 * 2 / 9)


def test_odd_steps_show_the_prompt_and_even_steps_fresh_samples(pairs, alphas):
    calls = []
    odd = draw_batch(pairs, alphas, settings(batch_size=3), miner(pairs, calls), 7, generator(7))
    assert calls == []
    assert odd.weights_k == (1.0,)
    assert odd.student_kbtd.shape == odd.teacher_kbtd.shape == (1, 3, *pairs.targets_ptd.shape[1:])
    even = draw_batch(
        pairs, alphas, settings(batch_size=3, gamma1=0.3, gamma2=0.7), miner(pairs, calls), 8, generator(8)
    )
    chosen, neighbors, beyond = zip(*calls, strict=True)
    assert even.weights_k == (0.3, 0.7)
    assert torch.equal(even.student_kbtd, torch.stack([torch.stack(neighbors), torch.stack(beyond)]))
    assert torch.equal(even.teacher_kbtd, torch.stack([pairs.anchors_ptd[list(chosen)], torch.stack(beyond)]))
    assert not torch.equal(neighbors[0] - pairs.targets_ptd[chosen[0]], neighbors[1] - pairs.targets_ptd[chosen[1]])


@pytest.mark.parametrize("has_neighbor", [False, True])
def test_without_samples_of_a_kind_its_term_changes_as_documented(pairs, alphas, has_neighbor):
    def mine(pair, generator):
        neighbor, beyond = miner(pairs)(pair, generator)
        return (neighbor, None) if has_neighbor else (None, beyond)

    even = draw_batch(pairs, alphas, settings(gamma1=0.3, gamma2=0.7), mine, 2, generator(2))
    assert even.weights_k == ((0.3,) if has_neighbor else (0.3, 0.7))
    is_plain = any(torch.equal(even.student_kbtd[0, 0], target) for target in pairs.targets_ptd)
    assert is_plain != has_neighbor


# --- equations 8 and 9


@pytest.mark.parametrize("step", [1, 2])
def test_errors_equal_two_separate_models(unet, pairs, alphas, step):
    teacher, original = copy.deepcopy(unet), {name: w.clone() for name, w in weights(unet).items()}
    kv = changed_weights(unet)
    patch(unet, kv)
    lora = add_lora(unet, settings(rank=3, alpha=2.0))
    for name, weight in lora.items():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator(name))
    student = merged(teacher, kv, lora, 2.0 / 3)

    batch = draw_batch(pairs, alphas, settings(batch_size=2), miner(pairs), step, generator(step))
    found = prediction_errors(unet, original, batch)
    expected = separate_errors(student, teacher, batch)
    assert len(expected) == step
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-7)
    assert found.requires_grad


def test_log_holds_the_terms_and_their_weighted_sum(unet, pairs, alphas, tmp_path):
    kv = changed_weights(unet)
    log = run(unet, pairs, alphas, tmp_path, steps=5, gamma1=0.3, gamma2=0.7, learning_rate=2e-4, kv=kv)
    assert tuple(log.columns) == COLUMNS
    assert list(log["step"]) == [1, 2, 3, 4, 5]
    assert (log["lr"] == 2e-4).all()
    odd, even = log[log["step"] % 2 == 1], log[log["step"] % 2 == 0]
    assert (odd["loss"] == odd["erase"]).all()
    assert odd["preserve"].isna().all()
    assert (even["preserve"] > 0).all()
    np.testing.assert_allclose(even["loss"], 0.3 * even["erase"] + 0.7 * even["preserve"], rtol=1e-5)
    assert all(float(f"{value:.6g}") == value for value in log["loss"])


def test_training_takes_the_steps_that_the_equations_say(unet, pairs, alphas, tmp_path):
    """With a rate of almost nothing the student stays the closed form, so that any step can be computed."""
    kv, teacher, student = changed_weights(unet), copy.deepcopy(unet), copy.deepcopy(unet)
    patch(student, kv)
    params = settings(steps=4, gamma1=0.3, gamma2=0.7, learning_rate=1e-12, batch_size=2)
    log = train(unet, pairs, alphas, params, tmp_path, miner(pairs), kv, progress=False)
    for step in range(1, 5):
        batch = draw_batch(pairs, alphas, params, miner(pairs), step, generator(0, step, 0))
        gammas = (1.0,) if step % 2 else (0.3, 0.7)
        loss = sum(gamma * error for gamma, error in zip(gammas, separate_errors(student, teacher, batch), strict=True))
        assert log["loss"][step - 1] == pytest.approx(loss.item(), rel=1e-4)


# --- the models


def test_only_the_loras_weights_change(unet, pairs, alphas, tmp_path):
    before = {name: w.clone() for name, w in unet.named_parameters()}
    run(unet, pairs, alphas, tmp_path, targets=("to_v",))
    after = {name.replace(".base_layer", ""): w for name, w in unet.named_parameters() if "lora_" not in name}
    assert_same(before, after)
    lora = lora_state(unet)
    assert lora
    assert all(".attn2.to_v.lora_" in name for name in lora)
    assert all(w.abs().max() > 0 for w in lora.values())
    assert all(w.dtype == torch.float32 for w in lora.values())


def test_the_teacher_stays_the_untouched_model(unet, pairs, alphas, tmp_path):
    original = {name: w.clone() for name, w in weights(unet).items()}
    before = output(unet, pairs)
    run(unet, pairs, alphas, tmp_path, steps=12, learning_rate=1e-2, kv=changed_weights(unet))
    student = output(unet, pairs)
    assert (student - before).abs().mean() > 1e-3
    with untouched(unet, original):
        assert torch.equal(output(unet, pairs), before)
    assert torch.equal(output(unet, pairs), student)
    with pytest.raises(KeyboardInterrupt), untouched(unet, original):
        raise KeyboardInterrupt
    assert torch.equal(output(unet, pairs), student)


def test_the_student_starts_from_the_closed_form(unet, pairs, alphas, tmp_path):
    kv = changed_weights(unet)
    expected = copy.deepcopy(unet)
    patch(expected, kv)
    log = run(unet, pairs, alphas, tmp_path, steps=0, kv=kv)
    assert torch.equal(output(unet, pairs), output(expected, pairs))
    assert len(log) == 0
    assert tuple(log.columns) == COLUMNS


def test_weights_of_another_model_are_refused(unet, pairs, alphas, tmp_path):
    kv = changed_weights(unet)
    kv.pop(next(iter(kv)))
    with pytest.raises(ArtifactError, match="no weight"):
        run(unet, pairs, alphas, tmp_path, kv=kv)


def test_training_aligns_airplane_with_cloud(unet, pairs, alphas, tmp_path):
    original = weights(unet)
    batch = draw_batch(pairs, alphas, settings(batch_size=16), nothing, 1, generator("held out"))
    (before,) = separate_errors(unet, unet, batch)
    run(unet, pairs, alphas, tmp_path, steps=40, batch_size=2, learning_rate=1e-3)
    with torch.no_grad():
        (after,) = prediction_errors(unet, original, batch)
    assert after < 0.6 * before


def test_initial_a_depends_on_the_seed_alone(unet):
    torch.manual_seed(1)
    first = add_lora(copy.deepcopy(unet), settings(rank=4))
    torch.manual_seed(2)
    second = add_lora(copy.deepcopy(unet).to(torch.bfloat16), settings(rank=4))
    assert_same(first, second)
    other = add_lora(copy.deepcopy(unet), settings(rank=4, seed=1))
    spread = torch.cat([w.flatten() for name, w in first.items() if "lora_A" in name])
    assert abs(spread.std() - 0.25) < 0.02
    assert all(not torch.equal(first[name], other[name]) for name in first if "lora_A" in name)
    assert all(not w.any() for name, w in first.items() if "lora_B" in name)


# --- files


def test_stock_loader_gives_the_same_output_when_alpha_is_not_the_rank(unet, pairs, alphas, tmp_path, tiny_sd):
    run(unet, pairs, alphas, tmp_path / "scratch", rank=2, alpha=5.0)
    path = save_adapter(unet, tmp_path / "lora")
    assert [file.name for file in path.parent.iterdir()] == ["pytorch_lora_weights.safetensors"]
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert metadata["unet.lora_alpha"] == 5.0
    other = open_pipeline(tiny_sd, device="cpu")
    assert not torch.equal(output(other.unet, pairs), output(unet, pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_lora_weights(tmp_path / "lora")
    assert torch.equal(output(other.unet, pairs), output(unet, pairs))


def test_no_steps_give_an_adapter_that_changes_nothing(unet, pairs, alphas, tmp_path, tiny_sd):
    before = output(unet, pairs)
    run(unet, pairs, alphas, tmp_path / "scratch", steps=0)
    assert torch.equal(output(unet, pairs), before)
    save_adapter(unet, tmp_path)
    other = open_pipeline(tiny_sd, device="cpu")
    other.load_lora_weights(tmp_path)
    assert other.get_active_adapters()
    assert torch.equal(output(other.unet, pairs), before)


# --- killed and started again


@pytest.mark.parametrize(("last_step", "calls_again"), [(2, 3), (4, 2), (6, 2)])
def test_interrupted_training_ends_as_an_uninterrupted_one(unet, pairs, alphas, tmp_path, last_step, calls_again):
    whole, cut = copy.deepcopy(unet), copy.deepcopy(unet)
    expected = run(whole, pairs, alphas, tmp_path / "whole", steps=7)
    calls = []

    def mine(pair, generator):
        if 2 * (len(calls) + 1) == last_step:
            raise KeyboardInterrupt
        return miner(pairs, calls)(pair, generator)

    with pytest.raises(KeyboardInterrupt):
        run(cut, pairs, alphas, tmp_path / "cut", mine, steps=7)
    assert (tmp_path / "cut" / CHECKPOINT).exists() == (last_step > 3)
    calls.clear()
    log = run(unet, pairs, alphas, tmp_path / "cut", miner(pairs, calls), steps=7)
    assert len(calls) == calls_again
    assert log.equals(expected)
    assert_same(lora_state(unet), lora_state(whole))


SCRIPT = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from realera.methods.realera.alignment import Pairs, train
from realera.settings.config import LoraParams
from realera.methods.common.lora import save_adapter
from realera.families.stable_diffusion import open_pipeline
from tests.methods.test_lora import miner

torch.set_num_threads(1)
folder = Path(sys.argv[1])
pairs = Pairs(**load_file(folder / "pairs.safetensors"))
pipe = open_pipeline(sys.argv[2], device="cpu")
params = LoraParams.model_validate_json(sys.argv[3])
log = train(pipe.unet, pairs, pipe.scheduler.alphas_cumprod, params, folder, miner(pairs))
save_adapter(pipe.unet, folder)
log.to_csv(folder / "loss.csv", index=False)
"""


def start(folder, tiny_sd, params):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(tiny_sd), params.model_dump_json()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(unet, pairs, alphas, tmp_path, tiny_sd):
    whole, cut, params = tmp_path / "whole", tmp_path / "cut", settings(steps=24, save_every=2)
    write_safetensors(vars(pairs), cut / "pairs.safetensors")
    process = start(cut, tiny_sd, params)
    deadline = time.monotonic() + 60
    while not (cut / CHECKPOINT).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.4))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cut / "loss.csv").exists()
    _, progress = start(cut, tiny_sd, params).communicate(timeout=60)
    assert "step/s" in progress

    train(unet, pairs, alphas, params, whole, miner(pairs), progress=False).to_csv(whole / "loss.csv", index=False)
    save_adapter(unet, whole)
    for name in ("pytorch_lora_weights.safetensors", "loss.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1]])
def test_corrupt_checkpoint_is_discarded_with_a_warning(unet, pairs, alphas, tmp_path, damage):
    expected = run(copy.deepcopy(unet), pairs, alphas, tmp_path / "a", steps=3)
    path = tmp_path / "a" / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{CHECKPOINT}: not a readable checkpoint .* starts over"):
        log = run(unet, pairs, alphas, tmp_path / "a", steps=3)
    assert log.equals(expected)


def test_a_longer_training_goes_on_from_a_finished_one(unet, pairs, alphas, tmp_path):
    expected = run(copy.deepcopy(unet), pairs, alphas, tmp_path / "whole", steps=5)
    run(copy.deepcopy(unet), pairs, alphas, tmp_path / "part", steps=2)
    assert run(unet, pairs, alphas, tmp_path / "part", steps=5).equals(expected)


# --- precision and bad settings


@pytest.fixture
def _fresh_accelerate():
    """Accelerate fixes the precision once a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_fresh_accelerate")
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_bfloat16_trains_float32_weights_on_a_cpu(unet, pairs, alphas, tmp_path, held):
    exact = run(copy.deepcopy(unet), pairs, alphas, tmp_path / "exact", steps=1)
    AcceleratorState._reset_state(reset_partial_state=True)
    log = run(unet.to(held), pairs, alphas, tmp_path / "rounded", steps=2, mixed_precision="bf16")
    assert log["loss"][0] != exact["loss"][0]
    assert abs(log["loss"][0] / exact["loss"][0] - 1) < 0.2
    assert all(w.dtype == torch.float32 for w in lora_state(unet).values())


def test_float16_is_refused_on_a_cpu(unet, pairs, alphas, tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.mixed_precision: .* CPU"):
        run(unet, pairs, alphas, tmp_path, mixed_precision="fp16")
    with pytest.raises(ConfigError, match=r"model\.dtype: .* CPU"):
        run(unet.half(), pairs, alphas, tmp_path)


def test_a_learning_rate_that_explodes_is_named(unet, pairs, alphas, tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.learning_rate: the loss is nan at step \d"):
        run(unet, pairs, alphas, tmp_path, steps=4, learning_rate=1e30)
    assert not (tmp_path / CHECKPOINT).exists()


def test_gradient_checkpointing_changes_memory_only(unet, pairs, alphas, tmp_path):
    """Backward computes the student's activations again, after the teacher came and went."""
    expected = run(copy.deepcopy(unet), pairs, alphas, tmp_path / "a", steps=3, kv=changed_weights(unet))
    unet.enable_gradient_checkpointing()
    log = run(unet, pairs, alphas, tmp_path / "b", steps=3, kv=changed_weights(unet))
    np.testing.assert_allclose(log["loss"], expected["loss"], rtol=1e-4)
