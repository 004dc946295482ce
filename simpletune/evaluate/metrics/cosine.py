"""Cosines: of a picture with its prompt (CLIP-T), and with the middle of the training set (content, style)."""

from __future__ import annotations

from simpletune.evaluate.metrics import Array, unit


def prompt_adherence(pictures_ND: Array, prompts_ND: Array) -> Array:
    """CLIP-T, (N,): cos(CLIP(picture), CLIP(its prompt)), from -1 to 1, neither scaled nor cut off at 0.

    Hessel et al. 2021, "CLIPScore", arXiv 2104.08718, eq. 1, without its factor 2.5; named so by Ruiz et al. 2023,
    "DreamBooth", arXiv 2208.12242, section 4.2.
    """
    cosine_N: Array = (unit(pictures_ND) * unit(prompts_ND)).sum(axis=1)
    return cosine_N


def likeness_to_centroid(pictures_ND: Array, training_MD: Array) -> Array:
    """(N,): cos(picture, mean of the training pictures' features of length 1).

    On DINO features it stands for DINO-I of Ruiz et al. 2023, arXiv 2208.12242, section 4.2, with the set's middle in
    place of all pairs: the mean over pairs is this cosine times the middle's length, the same for all variants.
    On style descriptors it is the likeness to a style's prototype, Somepalli et al. 2024, arXiv 2404.01292, section 5.
    """
    middle_1D = unit(unit(training_MD).mean(axis=0, keepdims=True))
    cosine_N: Array = (unit(pictures_ND) @ middle_1D.T)[:, 0]
    return cosine_N
