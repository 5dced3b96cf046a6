"""Stage vae: train the autoencoder, measure it on icons that it has not seen."""

import torch
import typer

from pretrain.config import WORK, load_params
from pretrain.data import Icons, IconSampler, load_icons
from pretrain.training import train
from pretrain.vae import VaeTask, build_vae, measure_vae
from realera.store.artifacts import atomic_path, write_json
from realera.store.scratch import fingerprint, scratch

ICONS = WORK / "icons.parquet"


def load_split() -> tuple[Icons, Icons]:
    params = load_params()
    icons = load_icons(ICONS).without_vendors(*params.render.unseen)
    return icons.split(params.vae.seed, params.vae.val_share)


def make_task(device: torch.device) -> VaeTask:
    params = load_params()
    icons, _ = load_split()
    return VaeTask(build_vae(params.vae), icons, IconSampler(icons, params.caption.tier_weights), params.vae, device)


def main() -> None:
    params = load_params()
    key = fingerprint([params.vae.model_dump(), params.caption.tier_weights, params.render.model_dump()], [ICONS])
    with scratch("vae", key) as folder:
        weights, log = train(make_task, params.vae, folder, params.num_processes)
        vae = build_vae(params.vae)
        vae.load_state_dict(weights)
        vae.eval()
        train_icons, val_icons = load_split()
        measured = measure_vae(vae, train_icons)
        vae.register_to_config(scaling_factor=measured["scaling_factor"])
        report = {"scaling_factor": measured["scaling_factor"], "psnr_train": measured["psnr"]}
        report["psnr_val"] = measure_vae(vae, val_icons)["psnr"]
        with atomic_path(WORK / "vae") as target:
            vae.save_pretrained(target)
            log.to_csv(target / "log.csv", index=False)
            write_json(report, target / "report.json")


if __name__ == "__main__":
    typer.run(main)
