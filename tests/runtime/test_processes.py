"""Several processes, and what needs less memory: the same results, and a clear end when a process is lost."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import cpu_offload
from safetensors.torch import load, load_file

from benchmarks.lora import TINY_SD, build
from benchmarks.timing import peak_mib
from realera.drawing import batch as sampling
from realera.drawing.many import Source
from realera.drawing.memory import save_memory
from realera.drawing.precision import draw_in
from realera.families.cross_attention import weights
from realera.families.stable_diffusion import open_pipeline
from realera.methods.realera.alignment import check_shares, train
from realera.runtime import launch
from realera.runtime.devices import check_num_processes, most_processes, process_device
from realera.settings.config import ImageCounts, load_params
from realera.settings.errors import ConfigError
from realera.store.artifacts import read_parquet
from stages import encode, generate, latents, mine, solve
from stages import train as train_stage

CONCEPT = "airplane"
LORA = f"artifacts/{CONCEPT}/realera/parts/lora/pytorch_lora_weights.safetensors"
LOSS = f"artifacts/{CONCEPT}/realera/loss.csv"
TRAINED = f"artifacts/{CONCEPT}/realera/parts/trained.json"
TOLERANCE = 1e-3
"""Of the update's norm, between the LoRA of one process and of two; docs/scale.md says what was measured."""

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
SMALL = {
    "model": {"device": "cpu"},
    "encode": {"num_templates": 2},
    "sampler": {"M": 2, "N": 2},
    "latents": {"num_images": 2},
    "lora": {"steps": 14, "batch_size": 2, "save_every": 1, "num_processes": 2},
    "generate": {"num_inference_steps": 1, "batch_size": 2, "images": dict.fromkeys(ImageCounts.model_fields, 6)},
}


# --- which device


@pytest.mark.parametrize(
    ("rank", "device", "num_gpus", "expected"),
    [
        (0, "cuda", 8, "cuda:0"),
        (7, "cuda", 8, "cuda:7"),
        (1, "cuda:3", 8, "cuda:3"),
        (1, "cpu", 0, "cpu"),
        (1, "cpu", 8, "cpu"),
        (1, "mps", 0, "mps"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(rank, device, num_gpus, expected):
    assert process_device(rank, device, num_gpus) == expected


@pytest.mark.parametrize(("device", "most"), [("cpu", None), ("cuda", 8), ("cuda:3", 1), ("mps", 1)])
def test_a_gpu_serves_one_process(device, most):
    assert most_processes(device, 8) == most
    check_num_processes("lora.num_processes", most or 1000, device, 8)
    if most is not None:
        with pytest.raises(ConfigError) as caught:
            check_num_processes("lora.num_processes", most + 1, device, 8)
        expected = f"lora.num_processes: found {most + 1}; accepted on {device}: at most {most}, one for each GPU"
        assert str(caught.value) == expected


# --- started by somebody's launcher


def test_a_launchers_processes_are_counted(monkeypatch):
    for name in launch.NAMES:
        monkeypatch.delenv(name, raising=False)
    assert (launch.num_processes(), launch.is_main(), launch.own_device("auto")) == (1, True, "auto")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.num_processes() == 1
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (launch.num_processes(), launch.is_main(), launch.own_device("cpu")) == (4, False, "cpu")
    monkeypatch.setenv("RANK", "0")
    assert launch.is_main()
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ConfigError, match=r"^LOCAL_RANK: found nothing; WORLD_SIZE is '4', so a number is needed$"):
        launch.num_processes()


def test_a_batch_is_shared_equally_or_refused(tmp_path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["lora"] |= {"batch_size": 3, "num_processes": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ConfigError, match=r"lora: .*batch_size a multiple of num_processes = 2, found 3"):
        load_params(tmp_path / "params.yaml")
    check_shares(4, 2)
    with pytest.raises(ConfigError) as caught:
        check_shares(3, 2)
    found = "found 3, which 2 processes (lora.num_processes, or a launcher's) share; accepted: a multiple of 2"
    assert str(caught.value) == f"lora.batch_size: {found}"


# --- memory


def pictures(pipe):
    prompts = ["a photo of the cat", "a photo of the airplane", "a photo of the ship"]
    return np.stack([np.asarray(image).astype(int) for image in sampling.draw(pipe, prompts, range(3), 4, 5.0)])


@pytest.fixture(scope="module")
def plain(pipe):
    return pictures(pipe)


@pytest.mark.parametrize(
    ("switches", "most"),
    [
        ({"attention_slicing": True}, 1),
        ({"vae_slicing": True}, 1),
        ({"vae_tiling": True}, 0),
        ({"offload": "model", "device": torch.device("cpu")}, 0),
    ],
)
def test_saving_memory_changes_no_picture_by_more_than_rounding(pipe, plain, switches, most):
    other = copy.deepcopy(pipe)
    save_memory(other, **switches)
    assert abs(pictures(other) - plain).max() <= most


def test_drawing_in_bfloat16_moves_pictures_a_little_and_casts_the_image_model_alone(pipe, plain):
    other = copy.deepcopy(pipe)
    draw_in(other, "model")
    assert np.array_equal(pictures(other), plain)
    draw_in(other, "bfloat16")
    seen = set()
    other.unet.conv_in.register_forward_pre_hook(lambda _, arguments: seen.add(arguments[0].dtype))
    moved = abs(pictures(other) - plain)
    assert seen == {torch.bfloat16}
    assert {each.dtype for each in (other.text_encoder, other.vae)} == {torch.float32}
    assert 0 < moved.mean() < 4
    assert np.array_equal(pictures(pipe), plain)


def test_the_section_generate_says_in_which_precision_is_drawn():
    params = load_params()
    source = Source(params.model.model_copy(update={"device": "cpu"}))
    for dtype, expected in (("model", torch.float32), ("bfloat16", torch.bfloat16)):
        pipe = source.open("ddim", params.generate.model_copy(update={"dtype": dtype}))
        assert pipe.unet.dtype == expected


def test_tiles_are_blended_in_larger_images_only(pipe):
    other = copy.deepcopy(pipe)
    save_memory(other, vae_tiling=True)
    large = [next(iter(sampling.draw(each, ["a cat"], [0], 2, 5.0, size=(128, 128)))) for each in (pipe, other)]
    assert large[0].tobytes() != large[1].tobytes()


def test_a_model_whose_layers_wait_elsewhere_draws_the_same(pipe, plain):
    """As diffusers does for offload: sequential, which it refuses to do on a CPU."""
    other = copy.deepcopy(pipe)
    for part in (other.text_encoder, other.unet, other.vae):
        cpu_offload(part, torch.device("cpu"))
    assert other.text_encoder.get_input_embeddings().weight.is_meta
    assert abs(pictures(other) - plain).max() <= 1  # on a CPU layers that others have wrapped are left to MKL


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_nothing_is_offloaded_from_a_cpu(offload):
    params = load_params()
    source = Source(params.model.model_copy(update={"device": "cpu"}))
    with pytest.raises(ConfigError) as caught:
        source.open("ddim", params.generate.model_copy(update={"offload": offload}))
    assert str(caught.value) == f"generate.offload: found '{offload}'; accepted on cpu: none (it needs a CUDA GPU)"


def test_gradient_checkpointing_needs_less_memory_for_the_same_lora(tmp_path, one_thread):
    problem = build(open_pipeline(TINY_SD, device="cpu").unet, batch_size=8)
    found, peaks = {}, {}
    for is_on in (False, True):
        unet = copy.deepcopy(problem.unet)
        params = problem.params.model_copy(update={"steps": 2, "gradient_checkpointing": is_on})
        alphas, folder = torch.linspace(0.999, 0.005, 1000), tmp_path / str(is_on)
        arguments = (unet, problem.pairs, alphas, params, folder, problem.mine, weights(problem.unet), False)
        peaks[is_on] = peak_mib(lambda arguments=arguments: train(*arguments))
        found[is_on] = {name: w.detach() for name, w in unet.named_parameters() if "lora_" in name}
    assert peaks[True] < 0.85 * peaks[False]
    for name, weight in found[False].items():
        torch.testing.assert_close(found[True][name], weight, rtol=0, atol=1e-6)


# --- two processes


@pytest.fixture(scope="module")
def inputs(repository, tmp_path_factory):
    """A project with all that train reads."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(repository / "data/concepts", folder / "data/concepts")
    for name in ("prompts", "prompt_files", "models"):
        (folder / "data" / name).symlink_to(repository / "data" / name)
    params = yaml.safe_load((repository / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (encode, mine, solve, latents):
            stage.main(CONCEPT)
    return folder


@pytest.fixture
def project(inputs, tmp_path, monkeypatch):
    shutil.copytree(inputs, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def change_params(section, **values):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def command(repository, *arguments, launcher=()):
    return [sys.executable, *launcher, str(repository / f"stages/{arguments[0]}.py"), *arguments[1:]]


def start(line):
    environment = {name: value for name, value in os.environ.items() if name not in launch.NAMES}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)


def finish(process):
    """Return what the stage says, without bars."""
    _, said = process.communicate(timeout=600)
    lines = re.split(r"[\r\n]+", said)
    return [line for line in lines if line and not re.search(r"it/s|step/s|s/step|image/s|s/image", line)]


def until(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def members(session):
    """Return the processes of a session that are still there, with their command lines, in order of birth."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            line = (path / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append((int(fields[19]), int(path.name), line))
    return [(pid, line) for _, pid, line in sorted(found)]


def workers(process):
    return [pid for pid, line in members(process.pid) if "spawn_main" in line]


def kept():
    return list(Path(os.environ["REALERA_SCRATCH"]).glob("train-*/checkpoint.safetensors"))


def run_to_end(line):
    process = start(line)
    said = finish(process)
    assert (process.returncode, said) == (0, [])
    return Path(LORA).read_bytes(), Path(LOSS).read_bytes()


def everything():
    return {str(path) for path in Path("artifacts").rglob("*")}


@pytest.fixture(scope="module")
def of_two(inputs, repository, tmp_path_factory):
    """What two processes make that nobody disturbs: the bytes of the LoRA and of the log."""
    folder = tmp_path_factory.mktemp("of_two") / "project"
    shutil.copytree(inputs, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("REALERA_SCRATCH", str(folder.parent / "scratch"))
        return run_to_end(command(repository, "train", CONCEPT))


def kill(line, whom, number):
    """Kill the stage (whom: None) or a process of it when there is a new checkpoint; return its code and its words.

    Nothing but the checkpoint may be left.
    """
    before = [path.stat().st_mtime_ns for path in kept()]
    process = start(line)
    until(lambda: [path.stat().st_mtime_ns for path in kept()] != before or process.poll() is not None)
    os.kill(process.pid if whom is None else workers(process)[whom], number)
    said = finish(process)
    until(lambda: not members(process.pid), 60)
    assert not Path(LORA).parent.exists()
    assert not Path(LOSS).exists()
    assert len(kept()) == 1
    return process.returncode, said


@pytest.mark.slow
def test_two_processes_agree_with_one(project, of_two, one_thread):
    change_params("lora", num_processes=1)
    train_stage.main(CONCEPT)
    assert Path(LORA).read_bytes() != of_two[0]
    assert relative_difference(load_file(LORA), load(of_two[0])) < TOLERANCE


@pytest.mark.slow
def test_a_lost_process_ends_the_stage_which_resumes_to_the_same_bytes(project, repository, of_two):
    line, before = command(repository, "train", CONCEPT), everything()
    again = "start the stage again and it goes on from its last checkpoint"
    lost = f"error: lora.num_processes: a process was ended by SIGKILL; {again}"
    assert kill(line, 1, signal.SIGKILL) == (1, [lost])
    code, _ = kill(line, None, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert run_to_end(line) == of_two
    assert everything() == before | {LORA, str(Path(LORA).parent), TRAINED, LOSS}
    assert not list(Path(os.environ["REALERA_SCRATCH"]).iterdir())


@pytest.mark.slow
def test_started_by_hand_it_gives_the_same(project, repository, of_two):
    change_params("lora", num_processes=1)
    process = start(command(repository, "train", CONCEPT, launcher=TORCHRUN))
    said = finish(process)
    assert process.returncode == 0, said
    assert (Path(LORA).read_bytes(), Path(LOSS).read_bytes()) == of_two


def relative_difference(one, two):
    """Return the norm of the difference of the updates B A, over the norm of the first."""
    difference = norm = 0.0
    for name in [name for name in one if "lora_A" in name or "lora.down" in name]:
        other = name.replace("lora_A", "lora_B").replace("lora.down", "lora.up")
        first, second = (lora[other].double() @ lora[name].double() for lora in (one, two))
        difference += float((first - second).square().sum())
        norm += float(first.square().sum())
    return (difference / norm) ** 0.5


@pytest.mark.slow
def test_a_lost_drawing_process_ends_the_stage_and_its_work_is_kept(project, repository, capsys):
    change_params("generate", num_processes=2)
    line = command(repository, "generate", "originals", CONCEPT)
    scratch, out = Path(os.environ["REALERA_SCRATCH"]), Path(f"artifacts/{CONCEPT}/originals.parquet")
    process = start(line)
    until(lambda: list(scratch.glob("*/part-*")) or process.poll() is not None)
    drawing = [pid for pid, _ in members(process.pid) if pid != process.pid]  # forked, so named as their parent
    assert len(drawing) == 2
    os.kill(drawing[1], signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 1
    assert said == ["error: generate.num_processes: a process was ended by SIGKILL; fewer processes need less memory"]
    until(lambda: not members(process.pid), 40)
    assert not out.exists()
    parts = list(scratch.glob("*/part-*"))
    num_kept = sum(read_parquet(part).num_rows for part in parts)
    change_params("generate", num_processes=1)
    generate.main(generate.What.originals, CONCEPT, "")
    table = read_parquet(out)
    assert 0 < num_kept < table.num_rows
    assert f"/{table.num_rows - num_kept} [" in capsys.readouterr().err
    assert not list(scratch.iterdir())
