"""Wherever weights come from, a pickle is refused unread, and with a command that converts it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from executing import MARK, add_remote_code, write_pickle, write_torch
from safetensors.torch import load_file, save_file

from simpletune import outside
from simpletune.errors import ModelUnavailable, SimpletuneError

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def settings_for(make: Any, source: Path) -> Any:
    return make(pretrained_model_name_or_path=str(source))


@pytest.fixture
def make_settings() -> Callable[..., Any]:
    from simpletune.config.settings import Settings

    values = {"model_family": "sd3", "model_flavour": "tiny", "use_t5": True, "config_path": Path("config.json"),
              "base_model_precision": "no_change", "mixed_precision": "no", "tokenizer_max_length": 32}  # fmt: skip

    def make(**given: Any) -> Settings:
        return Settings(**(dict.fromkeys((field.name for field in fields(Settings)), None) | values | given))

    return make


def is_refused(act: Callable[[], object], pickled: Path, mark: Path) -> str:
    """The refusal's hint; nothing of the file was run."""
    with pytest.raises(SimpletuneError) as refused:
        act()
    assert not mark.exists()
    assert pickled.name in f"{refused.value.message} {refused.value.hint}"
    return refused.value.hint or ""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("write", [write_pickle, write_torch])
def test_a_file_as_model_adapter_or_descriptor(tmp_path, make_settings, suffix, write, tally):
    from simpletune.evaluate.features.style import Csd
    from simpletune.models.locate import locate
    from simpletune.models.lora_file import read_adapter, trained_with
    from simpletune.models.weight_source import WeightSource

    mark = tmp_path / MARK
    file = write(tmp_path / f"weights{suffix}", mark)
    uses: list[Callable[[], object]] = [
        lambda: locate(settings_for(make_settings, file)),
        lambda: read_adapter(file),
        lambda: read_adapter(file, "--adapter"),
        lambda: WeightSource.open(file),
        lambda: Csd(file, torch.device("cpu")),
    ]
    for use in uses:
        hint = is_refused(use, file, mark)
        assert hint.count("python -c") == 1
        assert str(file.with_suffix(".safetensors")) in hint
    assert trained_with(file) == {}
    tally("bad inputs: security", len(uses) + 1)


@pytest.mark.parametrize("write", [write_pickle, write_torch])
def test_a_pickle_under_the_name_of_safetensors(tmp_path, make_settings, write, tally):
    from simpletune.evaluate.features.style import Csd
    from simpletune.models.locate import locate
    from simpletune.models.lora_file import read_adapter
    from simpletune.results.card.facts import _adapter

    mark = tmp_path / MARK
    file = write(tmp_path / "weights.safetensors", mark)
    for use in (
        lambda: locate(settings_for(make_settings, file)),
        lambda: read_adapter(file),
        lambda: Csd(file, torch.device("cpu")),
        lambda: _adapter(file),
    ):
        is_refused(use, file, mark)
    tally("bad inputs: security", 4)


@pytest.mark.parametrize(
    ("part", "weights", "pickled"),
    [
        ("transformer", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ckpt"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
        ("text_encoder_3", "model.safetensors", "pytorch_model-00001-of-00002.bin"),
    ],
)
def test_a_part_of_a_model_folder(tiny_copy, tmp_path, make_settings, part, weights, pickled, tally):
    from simpletune.models.locate import locate

    (tiny_copy / part / weights).unlink()
    file = write_torch(tiny_copy / part / pickled, tmp_path / MARK)
    hint = is_refused(lambda: locate(settings_for(make_settings, tiny_copy)), file, tmp_path / MARK)
    assert hint.endswith(f'{part}/{"model" if part.startswith("text") else "diffusion_pytorch_model"}.safetensors"')
    tally("bad inputs: security", 1)


def test_a_pickle_beside_safetensors_is_left_alone(tiny_copy, tmp_path, make_settings):
    from simpletune.models.locate import locate

    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        write_torch(tiny_copy / part / "pytorch_model.bin", tmp_path / MARK)
        write_torch(tiny_copy / part / "diffusion_pytorch_model.bin", tmp_path / MARK)
    assert locate(settings_for(make_settings, tiny_copy)).root == tiny_copy
    assert not (tmp_path / MARK).exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A captioner and two feature models, whole."""
    import caption_models
    import feature_models

    folder = tmp_path_factory.mktemp("models")
    (folder / "caption").mkdir()
    return {
        "caption": caption_models.blip(folder / "caption"),
        "clip": feature_models.clip(folder / "clip"),
        "dino": feature_models.dino(folder / "dino"),
    }


def open_model(kind: str, folder: Path) -> Any:
    """What the program does with a model of the kind, to the loaded weights."""
    from simpletune.evaluate.features.locate import find
    from simpletune.evaluate.features.networks import Clip, Dino
    from simpletune.models.caption_loading import find_model, load_describer

    if kind == "caption":
        return load_describer(find_model(str(folder), None, None), torch.device("cpu"))
    describer = {"clip": Clip, "dino": Dino}[kind](find(f"--{kind}", str(folder), None, None), "x", torch.device("cpu"))
    return describer._network


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["caption", "clip", "dino"])
def test_a_model_of_captions_or_features_falls_back_to_no_pickle(models, tmp_path, kind, tally):
    folder = Path(shutil.copytree(models[kind], tmp_path / kind))
    assert open_model(kind, folder) is not None
    for file in folder.glob("*.safetensors"):
        file.unlink()
    file = write_torch(folder / "pytorch_model.bin", tmp_path / MARK)
    hint = is_refused(lambda: open_model(kind, folder), file, tmp_path / MARK)
    assert "model.safetensors" in hint
    # An index that leads to pickles, beside a file of safetensors that isn't the model's.
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    with pytest.raises(ModelUnavailable):
        open_model(kind, folder)
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 2)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["caption", "clip", "dino"])
def test_code_that_comes_with_a_model_never_runs(models, tmp_path, kind, tally):
    """transformers knows these kinds itself, so it needs none of the model's code, whatever its files name."""
    folder = Path(shutil.copytree(models[kind], tmp_path / kind))
    add_remote_code(folder, tmp_path / MARK)
    with suppress(SimpletuneError):
        open_model(kind, folder)
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 1)


@pytest.mark.fault
def test_a_model_that_needs_its_own_code_is_refused(models, tmp_path, tally):
    folder = Path(shutil.copytree(models["caption"], tmp_path / "own"))
    add_remote_code(folder, tmp_path / MARK)
    text = (folder / "config.json").read_text().replace('"blip"', '"own_kind"')
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelUnavailable) as refused:
        open_model("caption", folder)
    assert "code of its own, which is never run" in refused.value.message
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 1)


@pytest.mark.fault
def test_the_models_own_folder_runs_nothing(tiny_copy, tmp_path, make_settings, tally):
    from simpletune.models.locate import locate
    from simpletune.models.parts import open_part
    from simpletune.models.text import load_tokenizer

    for part in sorted(path for path in tiny_copy.iterdir() if path.is_dir()):
        add_remote_code(part, tmp_path / MARK, also=("scheduler_config.json",))
    add_remote_code(tiny_copy, tmp_path / MARK, also=("model_index.json",))
    files = locate(settings_for(make_settings, tiny_copy))
    for part in ("transformer", "vae", "text_encoder", "text_encoder_3"):
        open_part(files, part).empty_module()
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        load_tokenizer(tiny_copy / name)
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 1)


@pytest.mark.fault
def test_a_data_sets_script_never_runs(tmp_path, tally):
    pytest.importorskip("datasets")
    from simpletune.data.sources import SourceError
    from simpletune.data.sources.hub.local import files_of
    from simpletune.data.sources.hub.shards import PARQUET, Shard

    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"import os\nos.makedirs({str(tmp_path / MARK)!r})\n")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: scripted.py\n---\n")
    with pytest.raises(SourceError):
        files_of(folder, None)
    with pytest.raises(SourceError):
        Shard(str(folder / "scripted.py"), PARQUET)
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 2)


@pytest.mark.fault
def test_the_command_converts_and_runs_nothing_either(tmp_path, tally):
    """As a person would paste it: two shards, one with its numbers inside of "state_dict", one that shares memory."""
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": shared, "b": shared, "epoch": 3}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"state_dict": {"c": torch.ones(2).half()}}, tmp_path / "pytorch_model-00002-of-00002.bin")
    command = outside.conversion(outside.pickles_in(tmp_path)).partition("convert it: ")[2]
    done = subprocess.run(shlex.split(command.replace("python", sys.executable, 1)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "a": shared.tolist(), "b": shared.tolist(), "c": [1.0, 1.0]
    }  # fmt: skip
    write_torch(tmp_path / "evil.bin", tmp_path / MARK)
    command = outside.conversion([tmp_path / "evil.bin"]).partition("convert it: ")[2]
    done = subprocess.run(shlex.split(command.replace("python", sys.executable, 1)), capture_output=True, text=True)
    assert done.returncode != 0
    assert not (tmp_path / MARK).exists()
    tally("bad inputs: security", 1)
