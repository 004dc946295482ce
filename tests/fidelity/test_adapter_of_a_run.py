"""What a run saves, loaded into stock diffusers, takes the pictures that the run's own validation took.

The final adapter, that of the averaged weights, and a checkpoint's in the middle, each beside the sample of its step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from plain_loop import PRECISIONS, picture, stock_pipeline
from small_runs import Run, make_run
from tallies import Tally

from simpletune.cli.export import export

ONE_LEVEL = 1
"""Of 255, in a channel of a pixel: rounded the other way."""

PROMPT = "a red ball"
FILE, AVERAGES = "pytorch_lora_weights.safetensors", "ema.safetensors"
CHOICES: Mapping[str, Sequence[Any]] = {
    "lora_rank": (1, 4, 7, 200),  # 200: more than any layer of the tiny model is wide
    "alpha": ({}, {"lora_alpha": 2.5}, {"lora_alpha": 9, "use_rslora": True}),
    "lora_target": ("attention", "attention-image", "blocks", ["*.norm1.linear", "*.attn.to_k", "proj_out"]),
    "lora_init_type": ("default", "gaussian", "pissa", "olora"),
    "base_model_precision": ("no_change", *PRECISIONS),
    "optimizer": ("adamw", "adamw_bf16"),
    "lora_dropout": (0.0, 0.3),
    "use_dora": (False, True),
}


def can_be(chosen: Mapping[str, Any]) -> bool:
    """pissa and olora start from the base's own weights: those of an unquantized one, up to the narrowest's width.
    DoRA is refused over 2 bits."""
    if chosen["use_dora"] and chosen["base_model_precision"] == "int2-quanto":
        return False
    plain = chosen["lora_init_type"] in ("default", "gaussian")
    return plain or (chosen["base_model_precision"] == "no_change" and chosen["lora_rank"] < 64)


def pairs(values: Sequence[int]) -> set[tuple[int, int, int, int]]:
    """The values of every two keys, by their places in CHOICES."""
    return {(a, values[a], b, values[b]) for a, b in itertools.combinations(range(len(values)), 2)}


def covering() -> Iterator[dict[str, Any]]:
    """Choices such that any two values that can be together are together in one: always the one with most new pairs."""
    every = list(itertools.product(*(range(len(values)) for values in CHOICES.values())))
    open_ = {row: pairs(row) for row in every if can_be(dict(named(row)))}
    left = set().union(*open_.values())
    while left:
        best = max(open_, key=lambda row: len(open_[row] & left))
        left -= open_[best]
        yield dict(named(best))


def named(row: Sequence[int]) -> Iterator[tuple[str, Any]]:
    for (key, values), place in zip(CHOICES.items(), row, strict=True):
        yield key, values[place]


def taken(run: Run, step: str) -> np.ndarray:
    return np.asarray(Image.open(run.output / "samples" / step / "prompt-64x64-42.png")).astype(int)


def drawn(stock: Any, adapter: Path | None) -> np.ndarray:
    """By stock diffusers, with the adapter."""
    if adapter is not None:
        stock.load_lora_weights(adapter.parent, weight_name=adapter.name)
    try:
        return picture(stock, prompt=PROMPT, width=64, height=64, seed=42, max_sequence_length=32)
    finally:
        stock.unload_lora_weights()


def exported(run: Run, adapter: int | Path) -> Path:
    """A checkpoint's adapter, by its step or its file, as `simpletune export` writes it for diffusers."""
    file = run.folder / "exported" / str(adapter).replace("/", "_") / FILE
    file.parent.mkdir(parents=True)
    arguments = [str(run.config), "--to", "diffusers", "--adapter", str(adapter), "--output", str(file)]
    result = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return file


def check(run: Run, stock: Any) -> int:
    """Train, and compare every adapter there is; how many."""
    run.train()
    base = taken(run, "base")
    assert np.abs(base - drawn(stock, None)).max() <= ONE_LEVEL
    checkpoint = run.output / "checkpoint-1"
    compared = [
        ("step-000002", run.output / FILE),
        ("step-000002-ema", run.output / "ema" / FILE),
        ("step-000001", exported(run, 1)),
        ("step-000001-ema", exported(run, checkpoint / AVERAGES)),
    ]
    begun = run.values()["lora_init_type"]
    if begun in ("default", "gaussian"):
        compared += [("step-000001", checkpoint / FILE), ("step-000001-ema", checkpoint / AVERAGES)]
    else:  # what was subtracted is in a checkpoint too: nobody takes the file for an ordinary LoRA
        with pytest.raises(ValueError, match="Invalid LoRA"):
            drawn(stock, checkpoint / FILE)
    for step, adapter in compared:
        ours = taken(run, step)
        assert np.abs(ours - drawn(stock, adapter)).max() <= ONE_LEVEL, (step, adapter)
        assert np.abs(ours - base).max() > 8, f"{step}: the adapter changes nothing, so nothing was compared"
    return len(compared)


def keys(chosen: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in chosen.items() if key != "alpha"}
    return {
        **plain,
        **chosen["alpha"],
        "validation_prompt": PROMPT,
        "validation_step_interval": 1,
        "checkpoint_step_interval": 1,
        "checkpoints_total_limit": 5,
        "max_train_steps": 2,
        "learning_rate": 0.05,
        "use_ema": True,
        "ema_decay": 0.05,
    }


def test_the_adapters_of_a_run_are_those_that_were_trained(tmp_path: Path, tiny_model: Path) -> None:
    chosen = {"lora_rank": 7, "alpha": {"lora_alpha": 9, "use_rslora": True}, "lora_init_type": "pissa"}
    check(make_run(tmp_path / "run", **keys(chosen)), stock_pipeline(tiny_model))


def test_and_on_a_quantized_base_with_weights_in_16_bits(tmp_path: Path, tiny_model: Path) -> None:
    """A factor of 2.5 times a number of 16 bits isn't one."""
    chosen = {"lora_rank": 1, "alpha": {"lora_alpha": 2.5}, "lora_init_type": "gaussian", "optimizer": "adamw_bf16"}
    run = make_run(tmp_path / "run", **keys({**chosen, "base_model_precision": "int8-quanto"}))
    check(run, stock_pipeline(tiny_model, "int8-quanto"))


@pytest.mark.fault
@pytest.mark.parametrize("precision", CHOICES["base_model_precision"])
def test_any_two_choices_go_together(tmp_path: Path, tiny_model: Path, precision: str, tally: Tally) -> None:
    stock = stock_pipeline(tiny_model, precision)
    rows = [chosen for chosen in covering() if chosen["base_model_precision"] == precision]
    assert len(rows) >= 3
    for number, chosen in enumerate(rows):
        run = make_run(tmp_path / str(number), **keys(chosen))
        tally("adapters of runs compared with stock diffusers", check(run, stock))
