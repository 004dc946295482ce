"""Where a run's model is: built in, a folder, a single file, or the Hugging Face hub; and whether it is all there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune import outside
from simpletune.config import architecture, builtin
from simpletune.config.families import FAMILIES, Flavour
from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
from simpletune.models import components, hub, single_file
from simpletune.models.family import ModelFiles
from simpletune.models.parts import read_config
from simpletune.models.weight_source import WeightSource

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_KEY = '"pretrained_model_name_or_path"'
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")


def locate(settings: Settings, reporter: Reporter | None = None) -> ModelFiles:
    """Find or download what the run needs: T5 is left out when `use_t5` is false.

    Raises ModelUnavailable, with what to do, when the model is gated, unknown, out of reach, incomplete or pickled.
    """
    flavour = FAMILIES[settings.model_family].flavours[settings.model_flavour]
    source = settings.pretrained_model_name_or_path or flavour.hub_id or ""
    extra = _text_encoders_root(settings)
    path = settings.config_path.parent / Path(source).expanduser() if source else builtin.tiny_folder()
    commit = None
    if path.is_file():
        files = _single(source, path, settings, extra)
    else:
        if not path.is_dir():
            _reject_path(source)
            path, commit = hub.download(source, flavour, settings, reporter)
        files = ModelFiles(source or builtin.tiny_name(), path.absolute(), "folder", commit, extra)
        _check_folder(files, settings, is_built_in=not source)
    _check_flavour(files, flavour)
    return files


def _reject_path(source: str) -> None:
    """Raise ModelUnavailable for what was meant as a path, before the hub is asked for it."""
    suffix = Path(source).suffix
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or suffix in {".safetensors", *outside.PICKLES}:
        raise ModelUnavailable(f"{_KEY} is {source!r}, and there is no such file or folder", "check the path")


def _text_encoders_root(settings: Settings) -> Path | None:
    root = settings.pretrained_text_encoders_path
    if root is not None and not root.is_dir():
        raise ModelUnavailable(
            f'"pretrained_text_encoders_path" is {str(root)!r}, and there is no such folder', "check the path"
        )
    return root


def _single(source: str, path: Path, settings: Settings, extra: Path | None) -> ModelFiles:
    """A single file in the original layout, with the text encoders' folder it can't do without."""
    if path.suffix != ".safetensors":
        raise ModelUnavailable(f"{path} is not a .safetensors file", _pickle_hint([path]))
    files = ModelFiles(source, path.absolute(), "single", None, extra)
    stored = WeightSource.open(path)
    for part in ("transformer", "vae"):
        single_file.part_config(stored, part)
    absent = [
        part
        for part in components.needed_parts(settings.use_t5)
        if part in architecture.TOKENIZER_PARTS
        or (part in architecture.ENCODER_PARTS and not single_file.has_part(stored, part))
    ]
    lacking = _lacking(extra, absent) if extra is not None else absent
    if lacking:
        raise ModelUnavailable(
            f"{path.name} holds no {', '.join(absent)}"
            + (f", and {extra} lacks {', '.join(lacking)}" if extra else ""),
            'set "pretrained_text_encoders_path" to a folder that holds them in the diffusers layout',
        )
    return files


def _check_folder(files: ModelFiles, settings: Settings, is_built_in: bool) -> None:
    """Raise ModelUnavailable naming everything a folder lacks."""
    lacking = _lacking(files.root, components.needed_parts(settings.use_t5))
    if files.text_encoders_root is not None:
        elsewhere = _lacking(files.text_encoders_root, components.needed_parts(settings.use_t5))
        lacking = [name for name in lacking if name in elsewhere or name.split("/")[0] in ("vae", "transformer")]
    if not lacking:
        return
    without_weights = [name.partition("/")[0] for name in lacking if "weights" in name]
    pickled = [found for part in without_weights if (found := outside.pickles_in(files.root / part))]
    if pickled:
        names = [path.relative_to(files.root).as_posix() for found in pickled for path in found]
        raise ModelUnavailable(
            f"{files.root} has its weights as pickles ({', '.join(names[:3])}), which are never read",
            _pickle_hint(pickled[0]),
        )
    raise ModelUnavailable(
        f"{files.root} is not a complete SD3 model in the diffusers layout: it lacks {', '.join(lacking)}",
        builtin.HINT if is_built_in else f'check {_KEY}; without T5, set "use_t5" to false',
    )


def _pickle_hint(paths: Sequence[Path]) -> str:
    if any(outside.is_pickle(path) for path in paths):
        return outside.conversion(paths)
    return "name a .safetensors file, or a folder in the diffusers layout"


def _lacking(root: Path, parts: Sequence[str]) -> list[str]:
    """What `root` lacks of the parts, as paths a person can look for."""
    lacking = []
    for part in parts:
        folder = root / part
        if part in architecture.TOKENIZER_PARTS:
            if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
                lacking.append(f"{part}/ (the tokenizer's files)")
            continue
        config = "scheduler_config.json" if part == "scheduler" else "config.json"
        if not (folder / config).is_file():
            lacking.append(f"{part}/{config}")
        if part in architecture.WEIGHT_PARTS and not any(folder.glob("*.safetensors")):
            lacking.append(f"{part}/ (its weights as .safetensors)")
    return lacking


def _check_flavour(files: ModelFiles, flavour: Flavour) -> None:
    """The flavour decides targets and defaults, so a model of another one would be trained wrongly."""
    if files.layout == "single":
        config = single_file.part_config(WeightSource.open(files.root), "transformer")
    else:
        config = read_config(files.root / "transformer" / "config.json")
    found = (config.get("num_layers"), tuple(config.get("dual_attention_layers") or ()))
    if found == (flavour.block_count, flavour.dual_attention_blocks):
        return
    known = FAMILIES["sd3"].flavours.values()
    fitting = next((other.name for other in known if found == (other.block_count, other.dual_attention_blocks)), None)
    raise ModelUnavailable(
        f"{files.source} has {found[0]} transformer blocks, {len(found[1])} of them with dual attention: "
        f"it is no {flavour.name}",
        f'set "model_flavour" to "{fitting}"' if fitting else "this model fits no flavour that is known",
    )
