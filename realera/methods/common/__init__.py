"""What methods share: the closed form of equation 7 and the LoRA on cross-attention.

May import: `settings` to `drawing`.
"""
