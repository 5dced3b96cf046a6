"""A CLIP model as judge: which of several texts an image shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from realera.runtime.devices import resolve_device
from realera.store.checkpoints import check_folder, load, locate, refuse_missing


def open_clip(
    id: str | Path,
    revision: str | None = None,
    device: str = "auto",
) -> tuple[CLIPModel, CLIPProcessor]:
    """Open a CLIP model in float32 and its processor.

    Raises:
        ModelError: nothing is there, it is no CLIP model, or weights are missing or corrupt.
    """
    place = locate(id)
    check_folder(place, "config.json", "a CLIP model")
    where = {"revision": revision}
    weights = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = load(CLIPModel.from_pretrained, place, where | weights)
    refuse_missing(place, report["missing_keys"])
    # Named, because CLIPProcessor.from_pretrained warns when torchvision is not installed.
    image_processor = load(CLIPImageProcessorPil.from_pretrained, place, where)
    tokenizer = load(CLIPTokenizer.from_pretrained, place, where)
    return model.eval().to(resolve_device(device)), CLIPProcessor(image_processor, tokenizer)


@torch.no_grad()
def text_features(model: CLIPModel, processor: CLIPProcessor, prompts: Sequence[str]) -> torch.Tensor:
    """Return unit vectors [num_prompts, width], float32 on the model's device."""
    inputs = processor.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    return _unit(model.get_text_features(**inputs).pooler_output)


@torch.no_grad()
def image_features(
    model: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence[Image.Image],
    batch_size: int = 64,
) -> torch.Tensor:
    """Return unit vectors [num_images, width], float32 on the model's device."""
    parts = [
        _image_batch(model, processor, images[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    ]
    width = model.config.projection_dim
    return torch.cat(parts) if parts else torch.empty(0, width, device=model.device)


def class_probabilities(
    model: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    batch_size: int = 64,
) -> np.ndarray:
    """Return float64 [num_images, num_prompts]: how the judge divides each image's probability.

    p[i, j] = softmax_j(s cos(image_i, prompt_j)), with s the model's own logit scale.
    """
    images_nd = image_features(model, processor, images, batch_size)
    return divide_probability(model, images_nd, text_features(model, processor, prompts))


def divide_probability(model: CLIPModel, images_nd: torch.Tensor, prompts_pd: torch.Tensor) -> np.ndarray:
    """Return `class_probabilities` from unit vectors that are there already, float64 [n, p]."""
    logits_np = model.logit_scale.exp() * images_nd @ prompts_pd.T
    return logits_np.double().softmax(dim=-1).detach().cpu().numpy()


def paired_scores(model: CLIPModel, images_nd: torch.Tensor, texts_nd: torch.Tensor) -> np.ndarray:
    """Return the CLIP score of each image with its own text, from unit vectors, float64 [n].

    s cos(image_i, text_i), the scale of the model's `logits_per_image`; OpenAI's models have s = 100.
    """
    scores_n = model.logit_scale.exp() * (images_nd * texts_nd).sum(dim=-1)
    return np.asarray(scores_n.double().detach().cpu().numpy())


def _image_batch(model: CLIPModel, processor: CLIPProcessor, images: Sequence[Image.Image]) -> torch.Tensor:
    inputs = processor.image_processor([image.convert("RGB") for image in images], return_tensors="pt")
    pixels = inputs["pixel_values"].to(model.device, model.dtype)
    return _unit(model.get_image_features(pixel_values=pixels).pooler_output)


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1)
