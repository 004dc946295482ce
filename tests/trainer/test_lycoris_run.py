"""Whole runs with LoKr, LoHa and DoRA on the tiny model: continued bit for bit, drawn with, exported, merged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from project import Project, make_project
from safetensors.torch import load_file

from simpletune.cli.main import run
from simpletune.config.validate import validate_files
from simpletune.errors import ConfigError
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch

Make = Callable[..., Project]
KEYS = {"checkpoint_step_interval": 2, "lr_scheduler": "constant", "base_model_precision": "int8-quanto"}
PRESET = {"target_module": ["Attention"], "module_algo_map": {"FeedForward": {"algo": "loha", "dim": 2}}}
LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 8, "apply_preset": PRESET}
KINDS: dict[str, dict[str, Any]] = {
    "lokr and loha": {"lora_type": "lycoris", "lycoris_config": "l.json", "lora_rank": None},
    "locon": {"lora_type": "lycoris", "lycoris_config": "l.json", "lora_rank": None},
    "dora": {"use_dora": True},
}
LOCON = {"algo": "locon", "linear_dim": 4, "linear_alpha": 2, "apply_preset": {"target_module": ["Attention"]}}


def train(project: Project, *overrides: str) -> None:
    assert launch(project.config, overrides, SilentReporter()) is not None


def made(folder: Path, kind: str, **keys: Any) -> Project:
    project = make_project(folder, **{**KEYS, **keys})
    project.set(**KINDS[kind])
    (folder / "l.json").write_text(json.dumps(LOCON if kind == "locon" else LOKR))
    return project


@pytest.mark.parametrize("kind", ["lokr and loha", pytest.param("dora", marks=pytest.mark.fault)])
def test_a_run_that_was_continued_is_the_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    whole, parts = made(tmp_path / "whole", kind, use_ema=True), made(tmp_path / "parts", kind, use_ema=True)
    train(whole)
    train(parts, "max_train_steps=2")
    train(parts)
    assert parts.losses() == whole.losses()
    for name in ("pytorch_lora_weights.safetensors", "ema/pytorch_lora_weights.safetensors"):
        ours, theirs = load_file(parts.output / name), load_file(whole.output / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    if kind != "dora":
        assert {key.rpartition(".")[2] for key in ours} == {
            "lokr_w1", "lokr_w2", "alpha", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
        }  # fmt: skip
        (parts.folder / "l.json").write_text(json.dumps({**LOKR, "factor": 4}))
        with pytest.raises(ConfigError, match="lycoris_config"):
            train(parts, "max_train_steps=6")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_programs_picture_is_the_trainers(tmp_path: Path, kind: str) -> None:
    """generate, the merged model and the card's program, which uses the LyCORIS library or diffusers alone."""
    pytest.importorskip("lycoris")
    project = made(tmp_path / "run", kind, validation_prompt="a red ball", base_model_precision="no_change")
    assert run(["train", str(project.config)]) == 0
    assert run(["generate", str(project.config), "--prompt", "a red ball", "--seed", "42"]) == 0
    assert run(["export", str(project.output), "--to", "comfyui"]) == 0
    assert run(["export", str(project.output), "--to", "merged"]) == 0
    card = (project.output / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", card, re.S)
    assert program is not None
    code = program[1].replace('adapter = "."', f"adapter = {str(project.output)!r}")
    code = code.replace('picture.save("picture.png")', "")
    found: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), found)
    from PIL import Image, ImageChops

    ours = Image.open(next((project.output / "samples").glob("step-000004/*.png"))).convert("RGB")
    difference = ImageChops.difference(ours, found["picture"].convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 3


def test_what_is_wrong_in_the_file_is_told_with_its_own_lines(tmp_path: Path) -> None:
    project = made(tmp_path / "run", "lokr and loha")
    text = '{\n  "algo": "lokr",\n  "factor": 7,\n  "apply_preset": {"target_module": ["Atention"]}\n}\n'
    (project.folder / "l.json").write_text(text)
    problems = [problem for problem in validate_files(project.config) if problem.file.endswith("l.json")]
    assert [(problem.line, problem.severity) for problem in problems] == [(4, "error")]
    assert 'did you mean "Attention"' in problems[0].message
    (project.folder / "l.json").write_text(text.replace("Atention", "Attention"))
    problems = [problem for problem in validate_files(project.config) if problem.file.endswith("l.json")]
    assert [(problem.line, problem.severity) for problem in problems] == [(3, "warning")]
    assert "5 x 32 is used there" in problems[0].message


# Each text, with ^ before what the caret must stand at.
CARETS = [
    '{"algo": "lokr", ^"facter": 8, "apply_preset": {"target_module": ["Attention"]}}',
    '{"algo": "lokr", ^"dropout": 0.1, "apply_preset": {"target_module": ["Attention"]}}',
    '{"algo": "lokr", "apply_preset": {"target_module": ["Attention", ^"Atention"]}}',
    '{"algo": "lokr", "apply_preset": {"target_module": ["Attention", ^7]}}',
    '{"algo": "lokr", "apply_preset": {"target_module": [], "target_name": [".*attn", ^"("]}}',
    '{"algo": "lokr", "apply_preset": {"target_module": ["Attention"], "exclude_name": ["a", ^"*"]}}',
    '{"algo": "lokr", "apply_preset": {"target_module": [], "module_algo_map": {"Attention": {}, ^"Atention": {}}}}',
    '{"algo": "lokr", "apply_preset": {"target_module": [], "name_algo_map": {^"nowhere": {"dim": 2}}}}',
    '{"algo": "lokr", "apply_preset": {"target_module": [], "module_algo_map": {"Attention": {"factor": ^7}}}}',
    '{"algo": "lokr", ^"apply_preset": {"target_module": ["Attention"], "exclude_name": [".*"]}}',
]


def test_the_caret_stands_at_what_is_wrong(tmp_path: Path) -> None:
    project = made(tmp_path / "run", "lokr and loha")
    for text in CARETS:
        (project.folder / "l.json").write_text(text.replace("^", ""))
        found = [problem for problem in validate_files(project.config) if problem.file.endswith("l.json")]
        assert [problem.column - 1 for problem in found] == [text.index("^")], text


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"lora_type": "lycoris"}, "lora_type"),
        ({"use_dora": True, "base_model_precision": "int2-quanto"}, "use_dora"),
        ({"lora_type": "lycoris", "lycoris_config": "l.json", "use_dora": True}, "use_dora"),
        ({"lora_type": "lycoris", "lycoris_config": "l.json", "lora_init_type": "pissa"}, "lora_init_type"),
        ({"lora_type": "lycoris", "lycoris_config": "l.json", "use_rslora": True}, "use_rslora"),
        ({"lora_type": "lycoris", "lycoris_config": "l.json", "lora_dropout": 0.1}, "lora_dropout"),
    ],
)
def test_what_cannot_be_had_together_is_said_at_its_key(tmp_path: Path, keys: dict[str, Any], key: str) -> None:
    project = make_project(tmp_path / "run", pictures=1, lora_rank=16, base_model_precision="no_change", **{
        name: value for name, value in keys.items() if name != "base_model_precision"})  # fmt: skip
    project.set(**keys)
    (project.folder / "l.json").write_text(json.dumps(LOKR))
    wrong = [problem for problem in validate_files(project.config) if problem.severity == "error"]
    assert [problem.path for problem in wrong] == [key]
