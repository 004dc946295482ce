"""Fine-tune Stable Diffusion 3 on your own images: two JSON files in, a LoRA out."""

__version__ = "0.1.0"
