"""What stock diffusers and transformers make of model folders; a script, so that other versions than ours can run it.

python tests/kit/stock.py OUT.npz CLIP_FOLDER PIPELINE_FOLDER...
"""

import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers import __version__ as diffusers_version
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
from transformers import __version__ as transformers_version

PROMPTS = ("a photo of the airplane", "a cat", "a drawing of a Red APPLE, and a boat")


def draw(folder):
    """Return images [prompts, 64, 64, 3] for fixed seeds."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for seed, prompt in enumerate(PROMPTS):
        generator = torch.Generator("cpu").manual_seed(seed)
        images += pipe(prompt, num_inference_steps=10, guidance_scale=5.0, generator=generator).images
    return np.stack([np.asarray(image) for image in images])


def judge(folder):
    """Return the probability of each prompt [images, prompts] for images that are noise, of two sizes."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)) for size in ((64, 64), (100, 80))]
    inputs = processor(text=list(PROMPTS), images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(**inputs).logits_per_image.softmax(dim=-1).numpy()


def main(out, clip, *pipelines):
    torch.set_num_threads(1)
    versions = np.array([diffusers_version, transformers_version])
    np.savez(out, versions=versions, probabilities=judge(clip), images=np.stack([draw(each) for each in pipelines]))


if __name__ == "__main__":
    main(*sys.argv[1:])
