"""The training loop of every trained stage: seeded by step, data-parallel, resumable, with remaining time."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from pretrain.config import Training
from realera.store.artifacts import atomic_path, write_safetensors
from realera.store.seeds import generator


class Task(Protocol):
    """What to train. `loss` draws its whole batch from `generator`, so that a step can be repeated."""

    module: nn.Module

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """{"loss": scalar to minimise, further scalars to log}."""
        ...


def keep_freed_memory() -> None:
    """Small steps spend much of their time in page faults unless glibc keeps its memory; acts on child processes."""
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 28)}
    os.environ.update(kept)


TaskFactory = Callable[[torch.device], Task]


def train(
    make_task: TaskFactory, params: Training, folder: Path, num_processes: int, ema_decay: float = 0.0
) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    """Train until `params.steps`, going on from the checkpoint in `folder` if there is one.

    Args:
        make_task: an importable function; each process calls it with its device.
        params: seed, steps, batch size and learning rate of the stage.
        folder: scratch; holds the checkpoint and the log between runs.
        num_processes: data-parallel CPU processes of one thread each (gradients are averaged).
            A machine with a GPU uses one process on it.
        ema_decay: when positive, the exponential moving average of the weights is returned.

    Returns:
        The trained state dict (CPU, float32) and the log, one row every 20 steps.
    """
    num_processes = 1 if torch.cuda.is_available() else num_processes
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    keep_freed_memory()
    spawn(_worker, (num_processes, make_task, params, folder, ema_decay), nprocs=num_processes)
    state = load_file(folder / "checkpoint.safetensors")
    prefix = "ema." if ema_decay else "model."
    weights = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return weights, pd.read_csv(folder / "log.csv")


def _worker(
    rank: int, num_processes: int, make_task: TaskFactory, params: Training, folder: Path, ema_decay: float
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if num_processes > 1:
        torch.set_num_threads(1)
        address = f"file://{(folder / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=num_processes)
    parent = os.getppid()
    torch.manual_seed(params.seed)  # weight initialisation: the same on every rank
    task = make_task(device)
    task.module.to(device).train()
    loop = Loop(task.module, params, folder, ema_decay)
    steps = tqdm(range(loop.step, params.steps), initial=loop.step, total=params.steps, disable=rank > 0, mininterval=5)
    for step in steps:
        values = task.loss(generator(params.seed, step, rank))
        loop.update(values["loss"])
        if rank == 0:
            loop.log(values, steps)
            loop.save_if_due()
        if os.getppid() != parent:  # the stage was killed: its workers must not go on alone
            raise SystemExit(1)
    if num_processes > 1:
        dist.destroy_process_group()


class Loop:
    """AdamW with warm-up and cosine decay, gradient averaging, EMA, checkpoints."""

    def __init__(self, module: nn.Module, params: Training, folder: Path, ema_decay: float):
        self.module, self.params, self.folder, self.ema_decay = module, params, folder, ema_decay
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _decay_groups(module, params.weight_decay), lr=params.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.ema = [p.detach().clone() for p in self.weights] if ema_decay else []
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self._resume()

    def update(self, loss: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(self.weights)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema:
            decay = min(self.ema_decay, self.step / (self.step + 10))  # a young average follows quickly
            torch._foreach_lerp_(self.ema, [w.detach() for w in self.weights], 1 - decay)

    def _learning_rate(self) -> float:
        warmup, steps = self.params.warmup_steps, self.params.steps
        if self.step < warmup:
            return self.params.learning_rate * (self.step + 1) / warmup
        progress = torch.tensor((self.step - warmup) / max(1, steps - warmup))
        return self.params.learning_rate * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.pi * progress)).item())

    def log(self, values: dict[str, torch.Tensor], bar: tqdm) -> None:
        if self.step % 20 and self.step != self.params.steps:
            return
        row = {name: round(float(value), 5) for name, value in values.items()}
        bar.set_postfix(row)
        self.rows.append({"step": self.step, **row, "lr": round(self._learning_rate(), 7)})

    def save_if_due(self) -> None:
        if self.step % self.params.save_every == 0 or self.step == self.params.steps:
            self._save()

    def _save(self) -> None:
        tensors = {f"model.{name}": t for name, t in self.module.state_dict().items()}
        names = [name for name, p in self.module.named_parameters() if p.requires_grad]
        tensors |= {f"ema.{name}": t for name, t in zip(names, self.ema, strict=False)}
        for name, weight in zip(names, self.weights, strict=True):
            state = self.optimizer.state[weight]
            tensors |= {f"optimizer.{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        with atomic_path(self.folder / "log.csv") as path:
            pd.DataFrame(self.rows).to_csv(path, index=False)
        write_safetensors(tensors, self.folder / "checkpoint.safetensors", {"step": str(self.step)})

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
        state = load_file(path)
        own = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
        self.module.load_state_dict(own)
        names = [name for name, p in self.module.named_parameters() if p.requires_grad]
        for i, (name, weight) in enumerate(zip(names, self.weights, strict=True)):
            saved = {key: state[f"optimizer.{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")}
            self.optimizer.state[weight] = {key: value.to(weight.device) for key, value in saved.items()}
            if self.ema:
                self.ema[i].copy_(state[f"ema.{name}"])
        with suppress(FileNotFoundError, pd.errors.EmptyDataError):  # killed before the first logged step
            log = pd.read_csv(self.folder / "log.csv")
            self.rows = log[log["step"] <= self.step].to_dict("records")


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Norms, biases and embedding tables are not decayed."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for weight in module.parameters():
        if weight.requires_grad:
            (decayed if weight.ndim >= 2 and id(weight) not in embeddings else free).append(weight)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _average_gradients(weights: Iterable[nn.Parameter]) -> None:
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in weights if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
        gradient.copy_(mean)
