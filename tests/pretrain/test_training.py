import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pretrain.config import Training
from pretrain.training import Loop, _decay_groups
from realera.store.seeds import generator

TOY = Path(__file__).with_name("toy_training.py")
PATIENCE = 300  # seconds that a process may take to start on a busy machine
CPU = torch.device("cpu")


def settings(**changed) -> Training:
    values = {"seed": 3, "steps": 20, "batch_size": 4, "learning_rate": 0.1, "weight_decay": 0.5}
    return Training(**({"warmup_steps": 4, "save_every": 5} | values | changed))


# the program -----------------------------------------------------------------------------------------


class Toy:
    """`toy_training.py` in a folder of its own, in a process group of its own."""

    def __init__(self, folder: Path, **options):
        self.folder, self.options = folder, options

    def start(self, **changed) -> subprocess.Popen:
        command = [sys.executable, TOY, self.folder, json.dumps(self.options | changed)]
        path = os.pathsep.join(p for p in (str(TOY.parents[2]), os.environ.get("PYTHONPATH")) if p)
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )

    def run(self, **changed) -> "Toy":
        process = self.start(**changed)
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        except BaseException:
            end(process)
            raise
        assert process.returncode == 0, errors.decode()[-2000:]
        return self

    @property
    def checkpoint(self) -> Path:
        return self.folder / "scratch/checkpoint.safetensors"

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "weights.safetensors")

    @property
    def workers(self) -> list[int]:
        return [int(path.name.removeprefix("pid-")) for path in self.folder.glob("pid-*")]


def end(process: subprocess.Popen) -> None:
    """Kill the program with all its processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def wait_until(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"), steps=60, num_processes=2, ema_decay=0.9).run()


@pytest.mark.parametrize("victim", ["the group", "the parent alone"])
def test_a_killed_run_goes_on_to_the_same_bytes(uninterrupted, tmp_path, victim):
    toy = Toy(tmp_path / "toy", **uninterrupted.options)
    process = toy.start(pause=0.05)
    try:
        wait_until(toy.checkpoint.exists, "the first checkpoint")
        assert process.poll() is None
        assert len(toy.workers) == 2
        (os.killpg if victim == "the group" else os.kill)(process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, toy.workers)), "the workers to end with their parent")
    finally:
        end(process)
    assert not (toy.folder / "weights.safetensors").exists()
    toy.run()
    assert toy.checkpoint.read_bytes() == uninterrupted.checkpoint.read_bytes()
    for name in ("weights.safetensors", "returned.csv"):
        assert (toy.folder / name).read_bytes() == (uninterrupted.folder / name).read_bytes(), name


def test_the_average_is_returned(uninterrupted):
    state = load_file(uninterrupted.checkpoint)
    weights = uninterrupted.weights
    assert set(weights) == {"0.weight", "0.bias", "2.bias", "3.weight", "3.bias"}  # what is trained
    for name, average in weights.items():
        assert torch.equal(average, state[f"ema.{name}"])
        assert not torch.equal(average, state[f"model.{name}"])


def test_a_finished_run_is_not_repeated(uninterrupted):
    before = uninterrupted.checkpoint.stat().st_mtime_ns
    weights = (uninterrupted.folder / "weights.safetensors").read_bytes()
    uninterrupted.run()
    assert uninterrupted.checkpoint.stat().st_mtime_ns == before
    assert (uninterrupted.folder / "weights.safetensors").read_bytes() == weights


def test_two_ranks_are_one_process_on_both_batches(uninterrupted, tmp_path):
    joined = Toy(tmp_path / "toy", **uninterrupted.options).run(num_processes=1, joined=2)
    for name, weight in uninterrupted.weights.items():
        torch.testing.assert_close(joined.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_it_learns_and_logs(uninterrupted):
    log = pd.read_csv(uninterrupted.folder / "returned.csv")
    assert list(log["step"]) == [20, 40, 60]
    assert {"loss", "error", "lr"} <= set(log.columns)
    assert log["error"].iloc[-1] < log["error"].iloc[0]
    unfit = 1 + 4 + 9 + 16  # the mean square of the toy's target: the error of predicting nothing
    assert log["error"].iloc[-1] < 0.1 * unfit


# the loop --------------------------------------------------------------------------------------------


def make_loop(folder: Path, ema_decay: float = 0.0, **changed) -> Loop:
    torch.manual_seed(0)
    return Loop(nn.Linear(3, 2), settings(**changed), folder, ema_decay)


def advance(loop: Loop, steps: int) -> None:
    for _ in range(steps):
        inputs = torch.randn(4, 3, generator=generator(0, loop.step, 0))
        loop.update(loop.module(inputs).square().mean())


def test_warm_up_then_cosine_to_a_fiftieth(tmp_path):
    loop = make_loop(tmp_path)
    rates = []
    for _ in range(20):
        advance(loop, 1)
        rates.append(loop.optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)  # the cosine starts where the warm-up ends
    assert rates[12] == pytest.approx(0.1 * (0.02 + 0.98 * 0.5))  # half-way
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert loop._learning_rate() == pytest.approx(0.002)


def test_both_groups_have_the_rate(tmp_path):
    loop = make_loop(tmp_path)
    advance(loop, 2)
    assert [group["lr"] for group in loop.optimizer.param_groups] == pytest.approx([0.05, 0.05])


def test_no_warm_up_is_possible(tmp_path):
    assert make_loop(tmp_path, warmup_steps=0)._learning_rate() == pytest.approx(0.1)


def test_norms_biases_and_embeddings_are_not_decayed():
    module = nn.ModuleDict(
        {
            "table": nn.Embedding(5, 4),
            "conv": nn.Conv2d(4, 4, 3),
            "linear": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
            "frozen": nn.Linear(4, 4).requires_grad_(False),
        }
    )
    decayed, free = _decay_groups(module, 0.1)
    names = {id(p): name for name, p in module.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {"conv.weight", "linear.weight"}
    assert {names[id(p)] for p in free["params"]} == {
        "table.weight", "conv.bias", "linear.bias", "norm.weight", "norm.bias",
    }  # fmt: skip


def test_the_average_follows_quickly_at_first(tmp_path):
    loop = make_loop(tmp_path, ema_decay=0.999)
    before = loop.ema[0].clone()
    advance(loop, 1)
    expected = torch.lerp(before, loop.weights[0].detach(), 10 / 11)
    torch.testing.assert_close(loop.ema[0], expected)


def test_gradients_are_clipped(tmp_path):
    """Adam forgets a gradient's scale, so a huge one must leave the same weights as its clipped form."""
    huge, unit = make_loop(tmp_path / "a", weight_decay=0.0), make_loop(tmp_path / "b", weight_decay=0.0)
    huge.update(1e6 * huge.module.bias.sum())
    unit.update(unit.module.bias.sum() / 2**0.5)
    torch.testing.assert_close(huge.module.bias, unit.module.bias)
    state = huge.optimizer.state[huge.module.bias]
    assert state["exp_avg"].norm().item() == pytest.approx(0.1, rel=1e-3)  # (1 - beta1) x norm 1


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resuming_is_exact_before_anything_is_logged(tmp_path, ema_decay):
    """A row is logged every 20 steps; a checkpoint of step 5 has none yet."""
    through = make_loop(tmp_path / "through", ema_decay)
    advance(through, 9)
    first = make_loop(tmp_path / "resumed", ema_decay)
    advance(first, 5)
    first.save_if_due()
    second = make_loop(tmp_path / "resumed", ema_decay)
    assert second.step == 5
    advance(second, 4)
    for one, other in zip(through.weights + through.ema, second.weights + second.ema, strict=True):
        assert torch.equal(one, other)


def test_it_saves_when_due_and_at_the_end(tmp_path):
    loop = make_loop(tmp_path, steps=7)
    saved = []
    for _ in range(7):
        advance(loop, 1)
        loop.save_if_due()
        if (path := tmp_path / "checkpoint.safetensors").exists():
            saved.append(loop.step)
            path.unlink()
    assert saved == [5, 7]


def test_every_step_and_rank_has_a_generator_of_its_own():
    keys = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 5000) for rank in (0, 1, 7)]
    draws = {float(torch.rand((), generator=generator(*key), dtype=torch.float64)) for key in keys}
    assert len(draws) == len(keys)
    again = generator(1, 5000, 7)
    assert float(torch.rand((), generator=again, dtype=torch.float64)) in draws
