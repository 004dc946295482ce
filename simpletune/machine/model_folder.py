"""What a folder in the diffusers layout says without being loaded. Imports no torch.

Whether it holds all that a run reads, by the names of its files; how many tokens of a caption its CLIPs read.
"""

from __future__ import annotations

from pathlib import Path

from simpletune import outside
from simpletune.config.architecture import TOKENIZER_PARTS, WEIGHT_PARTS, config_number

_PARTS = ("scheduler", *TOKENIZER_PARTS, *WEIGHT_PARTS)
_T5_PARTS = ("text_encoder_3", "tokenizer_3")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")
_INDEX = ".safetensors.index.json"


def lacking_parts(folder: Path, use_t5: bool = True) -> list[str]:
    """The parts (folders such as "vae") that `folder` doesn't have whole."""
    return [part for part in _PARTS if (use_t5 or part not in _T5_PARTS) and not _is_whole(folder / part)]


def clip_tokens(tokenizer: Path, positions: int) -> int:
    """Tokens of a caption that CLIP reads: what its tokenizer's folder says, as in stock diffusers, and no more than
    the encoder has `positions` for."""
    return min(positions, config_number(tokenizer / "tokenizer_config.json", "model_max_length") or positions)


def _is_whole(part: Path) -> bool:
    if part.name in TOKENIZER_PARTS:
        return any((part / name).is_file() for name in _TOKENIZER_FILES)
    if part.name == "scheduler":
        return (part / "scheduler_config.json").is_file()
    return (part / "config.json").is_file() and _has_weights(part)


def _has_weights(part: Path) -> bool:
    """One file with all weights, or every file that an index names."""
    if any(file.is_file() and "-of-" not in file.name for file in part.glob("*.safetensors")):
        return True
    return any(_holds(part, index) for index in part.glob(f"*{_INDEX}"))


def _holds(part: Path, index: Path) -> bool:
    try:
        names = set(outside.read_json(index)["weight_map"].values())
        return bool(names) and all((part / str(name)).is_file() for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
