"""Whole runs on the tiny model, in this process: two files and pictures in, a LoRA that stock diffusers loads out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from project import Project, make_project

from simpletune.errors import ConfigError, TrainingFailed
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch
from simpletune.trainer.run import Outcome

Make = Callable[..., Project]
NOT_QUANTIZED = ["pos_embed*", "time_text_embed*", "context_embedder", "norm_out*", "proj_out"]


def train(project: Project, *overrides: str) -> Outcome:
    outcome = launch(project.config, overrides, SilentReporter())
    assert outcome is not None
    return outcome


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def stock_picture(model: Path, adapter: Path, quantize: str) -> np.ndarray:
    """What a person gets who loads the saved file into diffusers' own pipeline."""
    from optimum import quanto

    pipeline = StableDiffusion3Pipeline.from_pretrained(model, dtype=torch.float32)
    quanto.quantize(pipeline.transformer, weights=getattr(quanto, quantize), exclude=NOT_QUANTIZED)
    quanto.freeze(pipeline.transformer)
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red ball",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=5.0,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(42),
        output_type="pil",
    ).images[0]
    return np.asarray(image).astype(int)


def test_stock_diffusers_with_quantos_own_layers_draws_the_same_picture(project: Make, tiny_model: Path) -> None:
    """tests/fidelity compares many more adapters, on a base of what these layers dequantize to."""
    keys = {"base_model_precision": "int8-quanto", "lora_alpha": 8, "max_train_steps": 6}
    made = project(validation_prompt="a red ball", **keys)
    outcome = train(made)
    ours = picture(made.output / "samples/step-000006/prompt-64x64-42.png")
    base = picture(made.output / "samples/base/prompt-64x64-42.png")
    stock = stock_picture(tiny_model, outcome.adapter, "qint8")
    assert np.abs(ours - stock).max() <= 2
    assert np.abs(ours - base).max() > 8, "the adapter changed nothing, so the comparison shows nothing"


def test_a_run_leaves_everything_that_explains_it(project: Make) -> None:
    made = project(validation_prompt="a red ball", num_eval_images=1, use_ema=True, checkpoint_step_interval=2)
    outcome = train(made)
    assert outcome.steps == 4
    assert outcome.gallery is not None
    assert outcome.gallery.is_file()
    assert outcome.plots is not None
    assert outcome.plots.is_file()
    run = json.loads((made.output / "run.json").read_text())
    assert run["config"]["lora_rank"]["value"] == 4
    assert "config.json" in run["config"]["lora_rank"]["origin"]
    assert run["versions"]["torch"] == torch.__version__
    data = json.loads((made.output / "data.json").read_text())
    assert len(data["trained"]) == 5
    assert len(data["held_out"]) == 1
    for row in data["trained"]:
        (crop,) = row["crops"]
        left, top, right, bottom = crop["crop"]
        assert [right - left, bottom - top] == row["bucket"]
        assert len(row["latents"]) == 1
    phases = json.loads((made.output / "phases.json").read_text())
    assert [row["phase"] for row in phases] == ["encode text", "encode images", "load", "train", "validate"]
    assert (made.output / "ema/pytorch_lora_weights.safetensors").is_file()
    assert (made.output / "samples/step-000004-ema").is_dir()
    assert sorted(path.name for path in made.output.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_every_step_has_its_line(project: Make) -> None:
    made = project(num_eval_images=1, max_grad_norm=0.0, lr_scheduler="linear")
    train(made)
    lines = made.metrics().steps
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert 1 <= len(line["sigma"]) <= 2, "one sigma a sample"
        assert all(0 < sigma < 1 for sigma in line["sigma"])
        assert line["grad_norm"] > 0
        assert line["samples_per_second"] > 0
        assert line["memory_gib"] > 0
    rates = [line["learning_rate"] for line in lines]
    assert rates == sorted(rates, reverse=True)
    assert lines[0]["epoch"] == 0
    assert lines[-1]["epoch"] == 1, "five pictures in batches of two are three steps an epoch"
    validations = made.metrics().validations
    assert [line["step"] for line in validations] == [0, 4]
    assert validations[1]["validation_loss"] < validations[0]["validation_loss"]


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
def test_every_precision_trains_base_and_text_encoders(project: Make, precision: str) -> None:
    keys = {f"text_encoder_{n}_precision": precision for n in (1, 2, 3)}
    made = project(base_model_precision=precision, mixed_precision="bf16", max_train_steps=3, **keys)
    train(made)
    losses = made.losses()
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)


def test_the_base_is_the_same_after_training(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.nn.Module, dict[str, torch.Tensor]]] = []
    load = SD3.load_transformer

    def remember(self: SD3, *args: object, **keys: object) -> torch.nn.Module:
        module = load(self, *args, **keys)  # type: ignore[arg-type]
        seen.append((module, {name: tensor.clone() for name, tensor in module.state_dict().items()}))
        return module

    monkeypatch.setattr(SD3, "load_transformer", remember)
    train(project(base_model_precision="int8-quanto", learning_rate=0.1))
    (module, before), *_ = seen
    after = {name.replace(".base_layer", ""): tensor for name, tensor in module.state_dict().items()}
    for name, tensor in before.items():
        assert torch.equal(tensor.view(torch.uint8), after[name].view(torch.uint8)), name


def test_the_second_run_loads_neither_encoders_nor_vae(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project()
    train(made)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded although everything is cached")

    monkeypatch.setattr(SD3, "load_text_encoders", refuse)
    monkeypatch.setattr(SD3, "load_vae", refuse)
    train(made, f"output_dir={made.folder}/second")
    assert (made.folder / "second/pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "encoded"),
    [("picture", (1, 0)), ("caption", (0, 1)), ("tokens", (0, 7)), ("nothing", (0, 0))],
)
def test_exactly_what_changed_is_encoded_again(project: Make, change: str, encoded: tuple[int, int]) -> None:
    made = project(max_train_steps=1)
    train(made)

    def entries(kind: str) -> set[Path]:
        return set((made.folder / "cache" / kind).rglob("*.safetensors"))

    latents, texts = entries("vae"), entries("text")
    if change == "picture":
        Image.new("RGB", (64, 64), "gold").save(made.folder / "pictures/0-red.png")
    elif change == "caption":
        (made.folder / "pictures/0-red.txt").write_text("a golden ball")
    elif change == "tokens":
        made.set(tokenizer_max_length=80)
    train(made, f"output_dir={made.folder}/second")
    assert (len(entries("vae") - latents), len(entries("text") - texts)) == encoded


def test_a_finished_run_continues_from_its_checkpoint_when_more_steps_are_asked(project: Make, tmp_path: Path) -> None:
    keys = {"lora_dropout": 0.2, "caption_dropout_probability": 0.5, "use_ema": True, "lr_scheduler": "constant"}
    whole = make_project(tmp_path / "whole", max_train_steps=7, checkpoint_step_interval=3, **keys)
    train(whole)
    parts = project(max_train_steps=3, **keys)
    train(parts)
    train(parts, "max_train_steps=7")
    assert parts.losses() == whole.losses()
    for name in ("pytorch_lora_weights.safetensors", "ema/pytorch_lora_weights.safetensors"):
        resumed = safetensors.torch.load_file(parts.output / name)
        for key, tensor in safetensors.torch.load_file(whole.output / name).items():
            assert torch.equal(tensor, resumed[key]), key


@pytest.mark.parametrize("optimizer", ["adamw_bf16", "adafactor", "lion", "prodigy"])
def test_each_optimizer_trains_and_resumes_bit_for_bit(project: Make, tmp_path: Path, optimizer: str) -> None:
    if optimizer == "prodigy":
        pytest.importorskip("prodigyopt")
    keys = {
        "optimizer": optimizer,
        "lr_scheduler": "constant",
        "learning_rate": 1.0 if optimizer == "prodigy" else 1e-3,
    }
    whole = make_project(tmp_path / "whole", max_train_steps=4, **keys)
    train(whole)
    parts = project(max_train_steps=2, **keys)
    train(parts)
    train(parts, "max_train_steps=4")
    assert parts.losses() == whole.losses()


def test_a_checkpoint_of_other_settings_is_refused_by_name(project: Make) -> None:
    made = project(max_train_steps=2)
    train(made)
    with pytest.raises(ConfigError) as caught:
        train(made.set(lora_rank=8))
    assert "lora_rank: 4 -> 8" in caught.value.message
    assert "output_dir" in (caught.value.hint or "")


def test_resuming_from_none_never_overwrites_a_run(project: Make) -> None:
    made = project(max_train_steps=2)
    train(made)
    before = (made.output / "pytorch_lora_weights.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a run"):
        train(made, "resume_from_checkpoint=none")
    assert (made.output / "pytorch_lora_weights.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(project: Make) -> None:
    made = project(mixed_precision="fp16", learning_rate=1.0, optimizer="lion", lr_scheduler="constant")
    with pytest.raises(TrainingFailed, match="the loss is nan"):
        train(made.set(max_grad_norm=0.0, checkpoint_step_interval=1, max_train_steps=60))
    assert list(made.output.glob("checkpoint-*")), "there was something to keep"
    for file in made.output.rglob("*.safetensors"):
        for name, tensor in safetensors.torch.load_file(file).items():
            assert torch.isfinite(tensor).all(), f"{file}: {name}"


def test_checkpointing_does_not_change_the_numbers(project: Make, tmp_path: Path) -> None:
    plain = project(max_train_steps=3, lora_dropout=0.3)
    train(plain)
    for interval in (1, 2):
        made = make_project(
            tmp_path / f"every-{interval}",
            max_train_steps=3,
            lora_dropout=0.3,
            gradient_checkpointing=True,
            gradient_checkpointing_interval=interval,
        )
        train(made)
        assert made.losses() == plain.losses()


def test_a_run_cut_off_while_finishing_writes_its_outputs_when_started_again(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(max_train_steps=2)
    train(made)
    adapter = made.output / "pytorch_lora_weights.safetensors"
    before = adapter.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("simpletune.trainer.outputs.write", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(made, "max_train_steps=4")
    assert (made.output / "checkpoint-4").is_dir()
    assert train(made, "max_train_steps=4").steps == 4
    assert adapter.read_bytes() != before


def test_pictures_of_another_prompt_are_taken_again(project: Make) -> None:
    made = project(max_train_steps=1, validation_prompt="a red ball")
    train(made)
    base = made.output / "samples/base/prompt-64x64-42.png"
    red = base.read_bytes()
    train(made.set(validation_prompt="a green ball"), "max_train_steps=2")
    assert base.read_bytes() != red
    with Image.open(base) as picture:
        assert picture.info["prompt"] == "a green ball"


def test_going_on_from_an_earlier_checkpoint_sets_the_later_ones_aside(project: Make) -> None:
    made = project(max_train_steps=4, checkpoint_step_interval=2, lr_scheduler="constant")
    train(made)
    train(made, "max_train_steps=3", f"resume_from_checkpoint={made.output / 'checkpoint-2'}")
    assert sorted(path.name for path in made.output.glob("*checkpoint-*")) == [
        "abandoned-1-checkpoint-4",
        "checkpoint-2",
        "checkpoint-3",
    ]
    assert train(made, "max_train_steps=3").steps == 3


def test_what_would_stop_the_run_is_found_before_anything_is_loaded(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(init_lora="other.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, made.folder / "other.safetensors")
    monkeypatch.setattr(SD3, "load_text_encoders", None)
    with pytest.raises(ConfigError, match=r"other\.safetensors"):
        train(made)


def test_fp16_gives_up_when_no_loss_scale_works(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from simpletune.trainer import step

    made = project(mixed_precision="fp16", max_train_steps=60)
    monkeypatch.setattr(step.torch.linalg, "vector_norm", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(TrainingFailed, match="gradient norm nan"):
        train(made)


def test_the_adapter_says_how_it_was_trained(project: Make) -> None:
    outcome = train(project(max_train_steps=1))
    with safetensors.safe_open(outcome.adapter, framework="pt") as file:
        said = json.loads(file.metadata()["simpletune"])
    assert said["lora_rank"] == 4
    assert said["model_flavour"] == "tiny"
    assert said["steps"] == 1
    assert "output_dir" not in said


def test_a_finished_run_says_so_and_does_nothing(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project()
    train(made)
    before = {path: path.stat().st_mtime_ns for path in made.output.rglob("*") if path.name != ".run.lock"}
    monkeypatch.setattr(SD3, "load_transformer", None)
    assert train(made).steps == 4
    assert {path: path.stat().st_mtime_ns for path in made.output.rglob("*") if path.name != ".run.lock"} == before
