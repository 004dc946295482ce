"""The tiny model as it is shipped: whole, small, found without torch; and what is said where it is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simpletune.config import architecture, builtin
from simpletune.errors import ModelUnavailable

LIMIT_BYTES = 16_000_000
LAYOUT = {
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in architecture.WEIGHT_PARTS),
    *(f"{part}/model.safetensors" for part in architecture.ENCODER_PARTS),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "transformer")),
    *(f"{part}/{name}.json" for part in architecture.TOKENIZER_PARTS for name in ("tokenizer", "tokenizer_config")),
}


def test_every_file_is_there_and_all_are_small_enough(tiny_model: Path) -> None:
    sizes = {path.relative_to(tiny_model).as_posix(): path.stat().st_size for path in tiny_model.rglob("*.*")}
    assert set(sizes) == LAYOUT
    assert sum(sizes.values()) <= LIMIT_BYTES


def test_it_is_in_the_package_that_is_built(tiny_model: Path) -> None:
    root = Path(__file__).parents[2]
    assert tiny_model == root / "simpletune" / "builtin" / "tiny"
    ignored = (root / ".gitignore").read_text(encoding="utf-8").split()  # what git ignores the wheel leaves out too
    assert not [line for line in ignored if "safetensors" in line or "builtin" in line or line.startswith("*.json")]


def test_its_weights_are_16_bits(tiny_model: Path) -> None:
    for path in tiny_model.rglob("*.safetensors"):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}, path


def test_text_is_as_long_as_the_flavour_says(tiny_model: Path) -> None:
    lengths = {architecture.config_number(tiny_model / f"tokenizer{n}" / "tokenizer_config.json", "model_max_length")
               for n in ("", "_2")}  # fmt: skip
    assert lengths == {architecture.clip_tokens("tiny")} == {32}
    assert architecture.clip_tokens("sd3-medium") == 77


def test_it_is_found_without_torch() -> None:
    code = (
        "import sys\nfrom simpletune.config import architecture, builtin\n"
        "print(builtin.tiny_name(), architecture.largest_side('tiny'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, side, loaded = done.stdout.split()
    assert (name.startswith("tiny-"), side, loaded) == (True, "512", "False")


def test_a_damaged_installation_is_named(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "_FOLDER", tmp_path / "simpletune.zip" / "builtin")
    with pytest.raises(ModelUnavailable, match="the built-in tiny model is missing") as missing:
        builtin.tiny_folder()
    assert "install simpletune again" in (missing.value.hint or "")
    monkeypatch.setattr(builtin, "_FOLDER", tmp_path)
    shutil.copytree(tiny_model, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "tiny" / "vae" / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"damaged: .*config.json can't be read"):
        architecture.component_config("tiny", "vae")
    (tmp_path / "tiny" / "vae" / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"damaged: .*config.json can't be read: No such file or directory$"):
        builtin.read_config("vae/config.json")
    (tmp_path / "tiny" / "model_index.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="has no name"):
        builtin.tiny_name()
