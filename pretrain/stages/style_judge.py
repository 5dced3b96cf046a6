"""Stage style_judge: train tiny-style, set its temperature, measure it on icons that it was not trained on."""

import torch
import typer

from pretrain.assemble import ask_for_float32
from pretrain.config import WORK, load_params
from pretrain.data import load_icons
from pretrain.style_judge import (
    StyleTask,
    build_classifier,
    build_image_processor,
    calibrate_styles,
    evaluate_styles,
    split_icons,
)
from pretrain.training import train
from realera.store.artifacts import atomic_path, write_json
from realera.store.scratch import fingerprint, scratch

ICONS = WORK / "icons.parquet"


def make_task(device: torch.device) -> StyleTask:
    params = load_params()
    styles = params.render.styles
    train_icons, _ = split_icons(load_icons(ICONS), params)
    return StyleTask(build_classifier(params.style_judge, styles), train_icons, styles, params.style_judge, device)


def main() -> None:
    params, icons = load_params(), load_icons(ICONS)
    styles = params.render.styles
    settings = [params.style_judge.model_dump(), params.render.model_dump()]
    with scratch("style_judge", fingerprint(settings, [ICONS])) as folder:
        weights, log = train(make_task, params.style_judge, folder, params.num_processes)
        model = build_classifier(params.style_judge, styles)
        model.load_state_dict(weights)
        model.eval()
        _, val_icons = split_icons(icons, params)
        temperature = calibrate_styles(model, val_icons, styles, params.style_judge)
        model.half().float()  # measured as published: rounded to float16
        held_out = icons.of_vendor(params.render.held_out)
        report = evaluate_styles(model, val_icons, held_out, styles, params.style_judge)
        with atomic_path(WORK / "tiny-style") as target:
            model.half().save_pretrained(target)
            ask_for_float32(target)
            build_image_processor().save_pretrained(target)
            write_json(report | {"temperature": round(temperature, 4)}, target / "evaluation.json")
        with atomic_path(WORK / "style_judge_log.csv") as path:
            log.to_csv(path, index=False)


if __name__ == "__main__":
    typer.run(main)
