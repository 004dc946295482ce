"""Whole runs on a GPU, each way a step can run: the same losses, and going on bit for bit after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from quickstart_pictures import make_pictures

from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch
from simpletune.trainer.metrics import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
# torch's compiler makes warnings of its own, and hides them in a way that pytest undoes.
pytestmark.append(pytest.mark.filterwarnings("ignore"))

KEYS: dict[str, Any] = {
    "model_flavour": "tiny",
    "device": "cuda",
    "mixed_precision": "bf16",
    "base_model_precision": "int8-quanto",
    "lora_rank": 8,
    "learning_rate": 0.002,
    "lr_scheduler": "constant",
    "train_batch_size": 2,
    "gradient_checkpointing": False,
    "use_ema": True,
    "num_eval_images": 1,
    "max_train_steps": 12,
    "checkpoint_step_interval": 4,
    "validation_prompt": "a drawing of a red ball",
    "validation_num_inference_steps": 4,
    "validation_step_interval": 6,
    "output_dir": "output",
}
WEIGHTS = "pytorch_lora_weights.safetensors"
DATA = {
    "id": "a",
    "type": "local",
    "dataset_type": "image",
    "instance_data_dir": "pictures",
    "caption_strategy": "textfile",
}


def project(folder: Path, **keys: Any) -> Path:
    """Eight pictures and the two files; the config's path."""
    (folder / "pictures").mkdir(parents=True)
    make_pictures(folder / "pictures", 128, 8)
    (folder / "config.json").write_text(json.dumps(KEYS | keys))
    (folder / "multidatabackend.json").write_text(json.dumps([DATA]))
    return folder / "config.json"


def train(config: Path, *overrides: str) -> list[float]:
    """Run it; the losses of all its steps, those of an earlier part included."""
    outcome = launch(config, overrides, SilentReporter())
    assert outcome is not None
    lines = read_metrics(config.parent / "output" / "metrics.jsonl").steps
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def eager_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return train(project(tmp_path_factory.mktemp("eager"), execution="eager"))


@pytest.mark.parametrize("way", ["compile", "graph"])
def test_every_way_has_the_losses_of_plain_calls(tmp_path: Path, eager_losses: list[float], way: str) -> None:
    """Validated at steps 0, 6 and 12, where graphs give their memory back and are made again."""
    assert train(project(tmp_path / way, execution=way)) == pytest.approx(eager_losses, rel=5e-3)
    assert len(list((tmp_path / way / "output" / "samples").rglob("*.png"))) == 5  # base, and two weights twice


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, way: str) -> None:
    whole, parts = (project(tmp_path / name, execution=way) for name in ("whole", "parts"))
    expected = train(whole)
    train(parts, "max_train_steps=5")
    assert train(parts) == expected
    name = "output/pytorch_lora_weights.safetensors"
    one, other = (safetensors.torch.load_file(config.parent / name) for config in (whole, parts))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_a_deterministic_run_repeats_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """All phases of it: encoding, training, held-out losses, pictures."""
    whole, stopped = (project(tmp_path / name, deterministic=True, execution="eager") for name in ("whole", "stopped"))
    losses = train(whole)
    assert train(stopped, "max_train_steps=6") == losses[:6]
    assert train(stopped) == losses
    weights = [safetensors.torch.load_file(made.parent / "output" / WEIGHTS) for made in (whole, stopped)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


@pytest.mark.parametrize(("first", "then"), [("eager", "graph"), ("graph", "eager"), ("compile", "graph")])
def test_a_run_goes_on_in_another_way(tmp_path: Path, eager_losses: list[float], first: str, then: str) -> None:
    config = project(tmp_path / "run", execution=first)
    train(config, "max_train_steps=5")
    assert train(config, f"execution={then}") == pytest.approx(eager_losses, rel=5e-3)
