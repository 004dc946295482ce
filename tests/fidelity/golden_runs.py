"""The runs whose losses are kept in golden_losses.json. `python tests/fidelity/golden_runs.py` writes it again.

Write it again when the tiny model, the random numbers or a formula changes, and say in the commit why. Everything is
fp32 on a CPU with one thread, with optimizers whose steps follow the gradient smoothly, and over pictures of whole
numbers, so that another machine's sums, rounded in another order, stay within a hundred-thousandth.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from small_runs import Run, draw, draw_masks, make_run

FILE = Path(__file__).with_name("golden_losses.json")
STEPS = 12
_COMMON = {"max_train_steps": STEPS, "num_eval_images": 1, "validation_step_interval": 100, "seed": 7}
_RUNS: Mapping[str, dict[str, Any]] = {
    "as by default": {
        "pictures": 7,
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine",
        "caption_dropout_probability": 0.1,
    },
    "quantized, masked, accumulated": {
        "pictures": 8,
        "base_model_precision": "int8-quanto",
        "lora_target": "blocks",
        "lora_init_type": "gaussian",
        "lora_alpha": 8,
        "gradient_accumulation_steps": 3,
        "gradient_checkpointing": True,
        "timestep_sampling": "beta",
        "loss_type": "smooth_l1",
        "learning_rate": 2e-3,
        "lr_warmup_steps": 3,
        "lr_scheduler": "constant_with_warmup",
        "first": {"mask_source": "folder", "mask_data_dir": "masks"},
    },
    "pissa, averaged, regularised": {
        "pictures": 5,
        "lora_init_type": "pissa",
        "use_rslora": True,
        "use_ema": True,
        "optimizer": "adafactor",
        "learning_rate": 2e-3,
        "timestep_sampling": "style_friendly",
        "flow_schedule_auto_shift": True,
        "more": [{"id": "class", "instance_data_dir": "class", "is_regularisation_data": True}],
    },
}
NAMES = tuple(_RUNS)


def made(name: str, folder: Path) -> Run:
    run = make_run(folder, **{**_COMMON, **_RUNS[name]})
    draw_masks(folder / "masks", folder / "balls")
    draw(folder / "class", ["gray", "gold", "navy"], word="square")
    return run


def train_alone(run: Run) -> None:
    """With one thread: several add up in parts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run.train()
    finally:
        torch.set_num_threads(threads)


def losses(run: Run) -> dict[str, list[float]]:
    """Of a run that was trained."""
    return {"train": run.losses(), "held out": run.validation_losses()}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(NAMES):
            run = made(name, Path(folder) / str(number))
            train_alone(run)
            found[name] = losses(run)
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
