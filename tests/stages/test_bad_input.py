"""What users may get wrong, stage by stage: one clear line, exit code 1, and nothing half-written."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from realera.erasures.artifact import read_erasure
from realera.settings.config import ImageCounts
from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_json, read_parquet, write_json, write_parquet, write_safetensors
from realera.text.prompt_table import PromptTable
from tests.kit import other_families
from tests.kit.signals import heeding_interrupts
from tests.kit.stage_project import CONCEPT, FOR_ALL, INPUTS, STAGES, execute, make_project, place

PROJECT_MODEL = "data/models/tiny-sd"


@pytest.fixture(scope="module")
def finished(repository, tmp_path_factory):
    """A project with every artifact, made once."""
    folder = tmp_path_factory.mktemp("finished")
    make_project(folder, repository)
    return folder


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """The finished project, free to be spoiled."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def refused(project, capsys):
    """Run a stage that must refuse its input; return its one line."""

    def refused(stage: str, concept: str = CONCEPT) -> str:
        for name in STAGES[stage][2]:
            shutil.rmtree(place(name)) if place(name).is_dir() else place(name).unlink(missing_ok=True)
        before = content(project)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            execute(stage, concept)
        assert stopped.value.code == 1
        assert content(project) == before
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if line and not is_bar(line)]
        assert len(said) == 1, said
        line = said[0]
        assert line.startswith("error: ")
        assert "Traceback" not in line
        assert ".tmp-" not in line
        return line.removeprefix("error: ")

    return refused


def is_bar(line: str) -> bool:
    return "%|" in line


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_kind(path: Path) -> None:
    """Readable, with the right names where it has names, and of no use."""
    if path.suffix == ".json":
        path.write_text("[1]")
    elif path.suffix == ".csv":
        path.write_text("step,loss\n1,high\n")
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(pa.table({name: [[1.5]] * 2 for name in table.column_names}), path)
    else:
        write_safetensors({name: torch.zeros(3) for name in load_file(path)}, path)


DAMAGES = [Path.unlink, cut, empty, scramble, folder, other_kind]


def is_seen(stage: str, name: str, damage) -> bool:
    """A table of numbers has no end that could lack; whose shapes weights have is seen where they meet a model."""
    is_copied = stage == "erase" and name.endswith(".safetensors")
    return not (name.endswith("loss.csv") and damage is cut) and not (is_copied and damage is other_kind)


DAMAGED = [(*each, damage) for each in INPUTS for damage in DAMAGES if is_seen(*each, damage)]


@pytest.mark.parametrize(("stage", "name", "damage"), DAMAGED)
def test_a_damaged_input_is_named(refused, stage, name, damage):
    damage(place(name))
    said = refused(stage)
    assert place(name).name in said
    assert place(name).parent.name in said


@pytest.mark.parametrize("stage", ["mine", "solve", "train", "erase by uce"])
def test_prompts_that_contradict_themselves(refused, stage):
    path = place("prompts.parquet")
    table = read_parquet(path)
    last = table.schema.get_field_index("last")
    write_parquet(table.set_column(last, "last", pa.array([99] * table.num_rows, pa.int32())), path)
    assert "prompts.parquet: 'a photo of the airplane': tokens out of range, found" in refused(stage)
    write_parquet(table.filter(pc.field("role") != "anchor"), path)
    assert "prompts.parquet: pair_id: found 0, a target's prompt without its anchor's" in refused(stage)
    write_parquet(table.filter(pc.field("role") == "preserve"), path)
    assert "prompts.parquet: no prompt of a target" in refused(stage)


@pytest.mark.parametrize("stage", ["solve", "train", "erase by uce"])
def test_prompts_of_a_model_of_another_width(refused, stage):
    change_params("uce", prompts="templates")  # otherwise it encodes names itself
    table = PromptTable.read(place("prompts.parquet"))
    PromptTable(table.prompts, table.tokens, table.embeddings[..., :8]).write(place("prompts.parquet"))
    said = f"reads embeddings of width {table.width}, prompts.parquet has 8; they are of different models"
    assert said in refused(stage)


def test_sums_of_other_prompts_or_another_sampler(refused):
    said = "airplane-0f488683.safetensors: not of this prompts.parquet and sampler; mine makes it anew"
    table = PromptTable.read(place("prompts.parquet"))
    PromptTable(table.prompts, table.tokens, table.embeddings * 1.01).write(place("prompts.parquet"))
    assert said in refused("solve")
    table.write(place("prompts.parquet"))
    change_params("sampler", D1=0.3)
    assert said in refused("solve")


def test_samples_of_other_prompts(refused):
    change_params("sampler", source="text")  # otherwise training mines its own
    path = place("realera/samples.parquet")
    table = read_parquet(path)
    prompts = table.schema.get_field_index("prompt_id")
    write_parquet(table.set_column(prompts, "prompt_id", pa.array([3] * table.num_rows, pa.int32())), path)
    assert "samples.parquet: not made from this prompts.parquet" in refused("train")


def of_other_models(weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return weights under other names, and one of another shape."""
    first = min(weights)
    return [{f"x{name}": weight for name, weight in weights.items()}, weights | {first: weights[first][:, :8]}]


def test_weights_of_another_model(refused):
    path = place("realera/parts/kv_patch.safetensors")
    weights = load_file(path)
    for changed in of_other_models(weights):
        write_safetensors(changed, path)
        said = refused("train")
        assert said.startswith(f"{path}: ")
        assert min(weights) in said


def test_an_erasure_of_another_model(refused):
    """Other names, other shapes, other weights under the same names; and parts that are not of one erasure."""
    path = place("realera/erasure")
    erasure = read_erasure(path)
    for changed in of_other_models(dict(erasure.overlay)):
        replace(erasure, overlay=changed).save(path)
        said = refused("generate")
        assert said.startswith(f"{path}: ")
        assert min(erasure.overlay) in said
    base = erasure.about.base.model_copy(update={"sha256": "0" * 64})
    replace(erasure, about=erasure.about.model_copy(update={"base": base})).save(path)
    said = refused("generate")
    assert said.startswith(f"{path}: made for {PROJECT_MODEL}, whose weights differ from this pipeline's")
    erasure.save(path)
    write_safetensors({name: weight + 1 for name, weight in erasure.overlay.items()}, path / "overlay.safetensors")
    assert refused("generate").startswith(f"{path}/overlay.safetensors: found other bytes than erasure.json names")
    erasure.save(path)
    write_json(read_json(path / "erasure.json") | {"format": 2}, path / "erasure.json")
    assert refused("generate") == f"{path}/erasure.json: format: found 2; accepted: 1"


def test_an_erasure_that_lacks_part_of_its_lora(refused):
    path = place("realera/erasure")
    erasure = read_erasure(path)
    first = min(erasure.adapter)
    replace(erasure, adapter={name: each for name, each in erasure.adapter.items() if name != first}).save(path)
    assert refused("generate").startswith(f"{path}/adapter/pytorch_lora_weights.safetensors: ")


@pytest.mark.parametrize("content", [[], {}, {"sha256": "0" * 64}, {"sha256": "0" * 64, "solver": 3}])
@pytest.mark.parametrize(("name", "stage"), [("solved.json", "solve"), ("trained.json", "train")])
def test_parts_that_do_not_say_how_they_were_made(refused, content, name, stage):
    path = place(f"realera/parts/{name}")
    write_json(content, path)
    assert refused("erase") == f"{path}: found no parameters of {stage}, which makes it anew"


@pytest.mark.parametrize("found", [{}, {"sha256": 3}, {"sha256": "0" * 63}])
def test_parts_that_do_not_say_of_which_weights_they_are(refused, found):
    write_json({"solver": {}, **found}, place("realera/parts/solved.json"))
    assert refused("erase").startswith("erasure: sha256: found ")


@pytest.mark.parametrize("rows", [1, 3])
def test_latents_of_another_number_of_images(refused, rows):
    write_safetensors({"latents": torch.zeros(rows, 4, 8, 8)}, place("anchor_latents.safetensors"))
    assert refused("train").endswith(f"latents: found float32 [{rows}, 4, 8, 8]; accepted: float32 [2, 4, h, w]")
    write_safetensors({"latent": torch.zeros(2, 4, 8, 8)}, place("anchor_latents.safetensors"))
    assert refused("train").endswith("anchor_latents.safetensors: no tensor 'latents'; it has latent")


def test_no_adapter_at_all(refused):
    """An erasure may have none; RealEra's always has one, of no steps where lora.steps is 0."""
    file = place("realera/parts/lora/pytorch_lora_weights.safetensors")
    shutil.rmtree(file.parent)
    assert refused("erase") == f"{file}: a file is needed here, found nothing"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in FOR_ALL])
@pytest.mark.parametrize("concept", ["airplan", "../airplane"])
def test_an_unknown_concept(refused, stage, concept):
    said = refused(stage, concept)
    assert said.startswith(f"concepts: found {concept!r}; accepted: ") or said.startswith(f"artifacts/{concept}/")


MODEL_STAGES = ["encode", "solve", "latents", "train", "erase by uce", "originals", "generate"]


@pytest.mark.parametrize("stage", MODEL_STAGES)
def test_no_model(refused, stage):
    change_params("model", id="data/models/none")
    assert refused(stage).startswith("data/models/none: no such model; accepted: a folder, a hub id")


@pytest.mark.parametrize("stage", ["encode", "latents"])
def test_a_hub_id_without_the_hub(refused, stage):
    change_params("model", id="owner/never-downloaded")
    assert refused(stage).startswith("owner/never-downloaded: cannot be loaded: ")


@pytest.mark.parametrize("stage", ["encode", "latents"])
@pytest.mark.parametrize("name", other_families.FAMILIES)
def test_a_model_of_another_family(refused, stage, name, repository, tmp_path, tiny_sd):
    folder = other_families.save(name, tiny_sd, tmp_path / "model")
    change_params("model", id=str(folder))
    said = f"{folder}: found {name}; accepted: StableDiffusionPipeline (Stable Diffusion 1.x, 2.x)"
    assert refused(stage) == said
    script = start(repository, stage, CONCEPT)
    assert (script.communicate()[1], script.returncode) == (f"error: {said}\n", 1)


@pytest.mark.parametrize("stage", ["judge", "score"])
def test_no_judge(refused, stage):
    change_params("judge", id="data/models/none")
    assert refused(stage).startswith("data/models/none: no such model")


@pytest.mark.parametrize("stage", ["solve", "train", "erase by uce", "originals"])
def test_a_corrupt_unet(refused, stage, tmp_path, tiny_sd):
    shutil.copytree(tiny_sd, tmp_path / "model")
    cut(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    change_params("model", id=str(tmp_path / "model"))
    assert refused(stage).startswith(f"{tmp_path}/model: cannot be loaded: ")


@pytest.mark.parametrize("stage", ["solve", "train", "erase by uce"])
def test_a_unet_without_cross_attention(refused, stage, tmp_path, tiny_sd):
    shutil.copytree(tiny_sd, tmp_path / "model", ignore=shutil.ignore_patterns("unet"))
    blocks = {"block_out_channels": (8,), "norm_num_groups": 4, "mid_block_type": None}
    unet = UNet2DConditionModel(down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], **blocks)
    unet.save_pretrained(tmp_path / "model/unet")
    change_params("model", id=str(tmp_path / "model"))
    assert refused(stage) == "UNet2DConditionModel: no cross-attention, so there is no text to erase from it"


def test_what_a_drawing_process_refuses_is_said_once(refused):
    change_params("generate", num_processes=2, batch_size=1)
    cut(place("realera/erasure/adapter/pytorch_lora_weights.safetensors"))
    said = "artifacts/airplane/realera/erasure/adapter/pytorch_lora_weights.safetensors: found other bytes than"
    assert refused("generate").startswith(said)


def change_params(section: str, **values) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def start(repository: Path, *arguments: str, **options) -> subprocess.Popen:
    name, *others = arguments
    command = [sys.executable, str(repository / f"stages/{name}.py"), *others]
    with heeding_interrupts():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@contextmanager
def no_large_files():
    """Let writing fail after 20 kB, as on a full disk.

    Not a fixture: pytest's own output may go to a longer file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("encode", "prompts.parquet"),
        ("mine", "samples.parquet"),
        ("solve", "kv_patch.safetensors"),
        ("erase", "erasure"),
        ("erase by uce", "overlay.safetensors"),
        ("train", "checkpoint.safetensors"),
        ("originals", "originals.parquet"),
    ],
)
def test_a_full_disk_names_the_file(refused, stage, name):
    if stage == "originals":
        change_params("generate", images=dict.fromkeys(ImageCounts.model_fields, 8))
        change_params("generate", batch_size=1)
    with no_large_files():
        said = refused(stage)
    assert said.endswith(f"{name}: cannot be written: File too large")


def test_no_space_on_a_real_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "disk")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return  # the limit on a file's size stands for it
    try:
        target = tmp_path / "disk/artifacts/a"
        table = pa.table({"a": [os.urandom(1000) for _ in range(200)]})
        tensors = {"a": torch.zeros(100_000)}
        for write, name in [(write_parquet, "a.parquet"), (write_safetensors, "a.safetensors"), (write_json, "a.json")]:
            value = {"a.parquet": table, "a.safetensors": tensors, "a.json": "x" * 100_000}[name]
            with pytest.raises(ArtifactError, match=f"{name}: cannot be written: No space left on device"):
                write(value, target / name)
        assert list(target.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize(("number", "num_processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_an_interrupted_drawing_leaves_nothing_half_written_and_goes_on(
    project, repository, capsys, number, num_processes
):
    """Only the stage gets the signal, as from a scheduler; at a terminal its processes get it as well."""
    place("realera/images.parquet").unlink()
    images = dict.fromkeys(ImageCounts.model_fields, 40)
    change_params("generate", num_processes=num_processes, batch_size=1, images=images)
    before = content(project)
    stage = start(repository, "generate", "erased", CONCEPT, "realera", start_new_session=True)
    scratch = Path(os.environ["REALERA_SCRATCH"])
    try:
        until(lambda: list(scratch.glob("*/part-*")) or stage.poll() is not None)
        stage.send_signal(number)
        _, said = stage.communicate(timeout=600)
    finally:
        stage.kill()
    lines = [line for line in said.splitlines() if line and not is_bar(line)]
    assert lines == ["interrupted; start the stage again and it goes on from its last checkpoint"]
    assert stage.returncode == 130
    assert content(project) == before
    until(lambda: not members(stage.pid))
    kept = len(list(scratch.glob("*/part-*")))
    assert 0 < kept < 160
    assert not list(scratch.glob("*/.tmp-*"))
    change_params("generate", num_processes=1)
    execute("generate")
    assert f"/{160 - kept} [" in capsys.readouterr().err
    assert read_parquet(place("realera/images.parquet")).num_rows == 160
    assert not list(scratch.iterdir())


def members(group: int) -> list[int]:
    """Return the processes of a session that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == group and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def until(condition, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
