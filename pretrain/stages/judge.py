"""Stage judge: train tiny-clip, set its temperature, measure it on a vendor that nothing was trained on."""

import torch
import typer

from pretrain.assemble import ask_for_float32
from pretrain.calibrate import calibrate, evaluate_judge
from pretrain.captions import CaptionSampler
from pretrain.config import VOCABULARY, WORK, load_params, load_vocabulary
from pretrain.contrastive import JudgeTask, build_processor
from pretrain.data import Icons, load_icons
from pretrain.glyphs import joined
from pretrain.tokenizer import build_tokenizer
from pretrain.training import train
from realera.store.artifacts import atomic_path, write_json
from realera.store.scratch import fingerprint, scratch

ICONS, GLYPHS, MERGES = WORK / "icons.parquet", WORK / "glyphs.parquet", WORK / "packages/bpe_merges.txt"


def load_split() -> tuple[Icons, Icons, Icons]:
    """(train, validation, held out): the judge's own split; the held-out vendor is in neither of the first two.

    Glyphs are trained on only: they are not the art that the judge is for.
    """
    params = load_params()
    icons = load_icons(ICONS)
    held_out = params.render.held_out
    train_icons, val_icons = icons.without_vendors(held_out).split(params.judge.seed, params.judge.val_share)
    return joined(train_icons, load_icons(GLYPHS)), val_icons, icons.of_vendor(held_out)


def load_captions() -> CaptionSampler:
    return CaptionSampler(load_params().caption, load_vocabulary().concepts())


def make_task(device: torch.device) -> JudgeTask:
    icons, _, _ = load_split()
    return JudgeTask(icons, build_tokenizer(MERGES), load_captions(), load_params().judge, device)


def main() -> None:
    params, tokenizer, captions = load_params(), build_tokenizer(MERGES), load_captions()
    settings = [params.judge.model_dump(), params.caption.model_dump(), params.render.model_dump()]
    with scratch("judge", fingerprint(settings, [ICONS, GLYPHS, VOCABULARY])) as folder:
        weights, log = train(make_task, params.judge, folder, params.num_processes, params.judge.ema_decay)
        task = make_task(torch.device("cpu"))
        clip = task.export(weights)
        _, val_icons, held_out = load_split()
        calibrate(clip, tokenizer, held_out, load_vocabulary().concepts(), params.judge.seed)
        clip.half().float()  # measured as published: rounded to float16
        report = evaluate_judge(clip, tokenizer, held_out, val_icons, captions, task.styles, params.judge.seed)
        with atomic_path(WORK / "tiny-clip") as target:
            clip.half().save_pretrained(target)
            ask_for_float32(target)
            build_processor(tokenizer).save_pretrained(target)
            write_json(report, target / "evaluation.json")
        with atomic_path(WORK / "judge_log.csv") as path:
            log.to_csv(path, index=False)


if __name__ == "__main__":
    typer.run(main)
