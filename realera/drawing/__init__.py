"""What is drawn to judge an erasure, and drawing it: one batch, many images on several processes, latents of images.

May import: `settings` to `erasures`.
"""
