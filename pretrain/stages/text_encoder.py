"""Stage text_encoder: learn what pictures the words mean, keep the text half as the generator's encoder."""

import torch
import typer

from pretrain.captions import CaptionSampler
from pretrain.config import VOCABULARY, WORK, load_params, load_vocabulary
from pretrain.contrastive import TextEncoderTask
from pretrain.data import load_icons
from pretrain.tokenizer import build_tokenizer
from pretrain.training import train
from realera.store.artifacts import atomic_path
from realera.store.scratch import fingerprint, scratch

ICONS, MERGES = WORK / "icons.parquet", WORK / "packages/bpe_merges.txt"


def make_task(device: torch.device) -> TextEncoderTask:
    params = load_params()
    icons = load_icons(ICONS).without_vendors(*params.render.unseen)
    captions = CaptionSampler(params.caption, load_vocabulary().concepts())
    weights = params.caption.tier_weights
    return TextEncoderTask(icons, build_tokenizer(MERGES), captions, params.text_encoder, weights, device)


def main() -> None:
    params = load_params()
    settings = [params.text_encoder.model_dump(), params.caption.model_dump(), params.render.model_dump()]
    with scratch("text_encoder", fingerprint(settings, [ICONS, VOCABULARY])) as folder:
        ema_decay = params.text_encoder.ema_decay
        weights, log = train(make_task, params.text_encoder, folder, params.num_processes, ema_decay)
        text_encoder = make_task(torch.device("cpu")).export(weights)
        with atomic_path(WORK / "text_encoder") as target:
            text_encoder.half().save_pretrained(target / "text_encoder")
            build_tokenizer(MERGES).save_pretrained(target / "tokenizer")
            log.to_csv(target / "log.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
