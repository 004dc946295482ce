"""`simpletune generate` on a trained tiny model: the trainer's own pictures, made once, and every mistake explained."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from project import Project, make_project
from safetensors.torch import load_file, save_file

from simpletune import locks
from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.errors import UsageError
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.results import studio as taking
from simpletune.results.generate import LOCK_FILE, generate, order_of
from simpletune.results.run_folder import ADAPTER_FILE
from simpletune.trainer.launch import launch

PROMPT, OTHER = "a red ball", "a blue box, please"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of two steps with checkpoint-1 and checkpoint-2, and its own sample pictures of PROMPT at seed 42."""
    keys = {"max_train_steps": 2, "checkpoint_step_interval": 1, "learning_rate": 0.05, "num_eval_images": 0}
    made = make_project(tmp_path_factory.mktemp("generate") / "project", validation_prompt=PROMPT, **keys)
    assert launch(made.config, [], SilentReporter()) is not None
    return made


def command(project: Project, folder: Path, *arguments: str) -> int:
    return run(["generate", str(project.config), "--output", str(folder), *arguments])


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def entries(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*.png")}


def test_pictures_are_the_trainers_own(trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its prompt, seed and weights give the sample it took after the last step, and of the base, to the last bit."""
    assert command(trained, tmp_path, "--prompt", PROMPT, "--prompt", OTHER, "--seed", "42", "--seed", "7") == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"8 pictures in {tmp_path}",
        f"side by side: {tmp_path / 'sheet.png'}",
        f"next: simpletune evaluate {trained.config}",
    ]
    samples = trained.output / "samples"
    tuned = tmp_path / "step-000002" / "a-red-ball-64x64-42.png"
    base = tmp_path / "base" / "a-red-ball-64x64-42.png"
    assert np.array_equal(pixels(tuned), pixels(samples / "step-000002" / "prompt-64x64-42.png"))
    assert np.array_equal(pixels(base), pixels(samples / "base" / "prompt-64x64-42.png"))
    assert not np.array_equal(pixels(tuned), pixels(base))
    assert len({path.read_bytes() for path in tmp_path.glob("*/*.png")}) == 8
    said = entries(tuned)
    assert {"prompt": PROMPT, "seed": "42", "steps": "2", "guidance": "5.0", "scale": "1"}.items() <= said.items()
    assert said["adapter"] == "step-000002"
    assert entries(base)["adapter"] == "none"
    assert "adapter step-000002" in entries(tmp_path / "sheet.png")["heading"]


def test_two_processes_give_the_same_files(trained: Project, tmp_path: Path) -> None:
    arguments = ["--prompt", OTHER, "--no-sheet"]
    assert command(trained, tmp_path / "here", *arguments) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = [sys.executable, "-m", "simpletune", "generate", str(trained.config), "--output", str(tmp_path / "there")]
    subprocess.run([*words, *arguments], check=True, capture_output=True, env=environment)
    assert len(pictures(tmp_path / "here")) == 2
    assert pictures(tmp_path / "here") == pictures(tmp_path / "there")


def test_what_is_there_is_kept_and_nothing_loads_for_it(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(trained, tmp_path, "--prompt", PROMPT) == 0
    before = pictures(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded although every picture is there")

    with monkeypatch.context() as patch:
        for part in ("load_text_encoders", "load_vae", "load_transformer"):
            patch.setattr(SD3, part, refuse)
        assert command(trained, tmp_path, "--prompt", PROMPT) == 0
    assert "2 pictures in" in (out := capsys.readouterr().out)
    assert "2 of them there before" in out
    (tmp_path / "base" / "a-red-ball-64x64-42.png").write_bytes(b"half a pict")
    assert command(trained, tmp_path, "--prompt", PROMPT) == 0
    assert pictures(tmp_path) == before
    assert command(trained, tmp_path, "--prompt", PROMPT, "--guidance", "1") == 0
    assert all(data != before[name] for name, data in pictures(tmp_path).items()), "made otherwise, so made again"


def test_a_strength_of_zero_is_the_base(trained: Project, tmp_path: Path) -> None:
    """So it is drawn as that, once; and an adapter put on at 0 changes no bit."""
    order = order_of(load(trained.config)[0], prompts=[OTHER], scale=(0, 0.5))
    assert [variant.name for variant in order.variants] == ["base", "step-000002-scale-0.5"]
    assert order_of(load(trained.config)[0], scale=0.0, base=False).variants == order.variants[:1]
    idle = replace(order.variants[1], name="idle", scale=0.0)
    order = replace(order, variants=(*order.variants, idle))
    made = generate(load(trained.config)[0], order, tmp_path, SilentReporter()).pictures
    base, half, zero = (pixels(picture.path) for picture in made)
    assert np.array_equal(base, zero)
    assert not np.array_equal(base, half)


def test_ctrl_c_keeps_what_is_done(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[Path] = []

    def interrupted(path: Path, *rest: Any) -> None:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(path)
        save(path, *rest)

    save = taking.save_picture
    with monkeypatch.context() as patch:
        patch.setattr(taking, "save_picture", interrupted)
        assert command(trained, tmp_path, "--prompt", PROMPT, "--seeds", "2") == 130
    err = " ".join(capsys.readouterr().err.split())
    assert "stopped with 2 of 4 pictures made; they are kept" in err
    again = ["simpletune", "generate", trained.config, "--output", tmp_path, "--prompt", PROMPT, "--seeds", "2"]
    assert f"hint: the same command makes the rest: {shlex.join(map(str, again))}" in err
    assert sorted(pictures(tmp_path)) == sorted(path.relative_to(tmp_path).as_posix() for path in taken)
    assert command(trained, tmp_path, "--prompt", PROMPT, "--seeds", "2") == 0
    assert "4 pictures in" in (out := capsys.readouterr().out)
    assert "2 of them there before" in out


def test_a_grid_is_made_once_and_grows(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wordings x checkpoints x scales on one base, which is loaded once; a second command makes only what is new."""
    loaded: list[str] = []
    for part in ("load_vae", "load_transformer"):
        _count_calls(monkeypatch, part, loaded)
    asked = ["--prompt", "a {red|blue} ball", "--vary", "--adapter", "all", "--scale", "0.5", "--steps", "1"]
    assert command(trained, tmp_path, *asked, "--scale", "1") == 0
    out, err = capsys.readouterr()
    assert "10 pictures: 2 prompts x 1 seed x 1 size x 5 models" in err
    assert sorted(loaded) == ["load_transformer", "load_vae"]
    folders = {"base", "step-000001", "step-000001-scale-0.5", "step-000002", "step-000002-scale-0.5"}
    before = pictures(tmp_path)
    files = {"a-red-ball-64x64-42.png", "a-blue-ball-64x64-42.png"}
    assert set(before) == {f"{folder}/{file}" for folder in folders for file in files}
    assert len(set(before.values())) == 10
    assert "side by side: " in out
    (tmp_path / "base" / "a-red-ball-64x64-42.png").write_bytes(b"")
    assert command(trained, tmp_path, *asked, "--scale", "1", "--scale", "1.5") == 0
    after = pictures(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == 14
    said = " ".join(capsys.readouterr().err.split())
    assert "14 pictures: 2 prompts x 1 seed x 1 size x 7 models; 9 of them are there already; 1 that is there" in said
    assert not list(tmp_path.glob(".*")), "no lock and no half a file is left"


def _count_calls(monkeypatch: pytest.MonkeyPatch, part: str, called: list[str]) -> None:
    before = getattr(SD3, part)

    def counted(*arguments: Any, **named: Any) -> Any:
        called.append(part)
        return before(*arguments, **named)

    monkeypatch.setattr(SD3, part, counted)


def test_skipped_layers_are_a_folder_of_their_own(trained: Project, tmp_path: Path) -> None:
    """As the config's own keys would have it."""
    settings, _ = load(trained.config)
    plain = order_of(settings)
    skipping = order_of(settings, skip_layers=[1, 2], skip_scale=3, skip_stop=1.0)
    assert len({one.folder_in(tmp_path) for one in (plain, skipping, order_of(settings, skip_layers=[1, 2]))}) == 3
    keys = ["layers=[1,2]", "scale=3", "layers_stop=1"]
    configured, _ = load(trained.config, [f"validation_guidance_skip_{key}" for key in keys])
    assert skipping.applied(settings) == replace(order_of(configured).applied(configured), origins=settings.origins)
    assert order_of(configured, skip_layers=[]).skip is None


def test_a_folder_has_one_generate_at_a_time(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locks.hold(tmp_path / LOCK_FILE, lambda _: UsageError("held")):
        assert command(trained, tmp_path) == 2
    assert f"another generate (process {os.getpid()}) is making pictures in {tmp_path}" in capsys.readouterr().err
    assert not pictures(tmp_path)


def test_a_full_disk_keeps_what_is_done(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, *rest: Any) -> None:
        if pictures(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, *rest)

    save = taking.save_picture
    monkeypatch.setattr(taking, "save_picture", full)
    assert command(trained, tmp_path) == 3
    err = capsys.readouterr().err
    assert "can't be written to: No space left on device, with 1 of 2 pictures made; they are kept" in err
    assert "hint: free some space; the same command makes the rest" in err


def test_every_way_to_name_an_adapter(trained: Project, tmp_path: Path) -> None:
    other = tmp_path / "of a friend" / "blue.safetensors"
    other.parent.mkdir()
    shutil.copy(trained.output / ADAPTER_FILE, other)
    wishes = ("latest", "1", str(other), str(trained.output / "checkpoint-1"), "none")
    for wish in wishes:
        assert command(trained, tmp_path / "out", "--adapter", wish, "--no-sheet") == 0, wish
    made = pictures(tmp_path / "out")
    names = {name.partition("/")[0] for name in made}
    assert names == {"base", "step-000002", "step-000001", "blue", "checkpoint-1"}
    shown = {name: pixels(tmp_path / "out" / name / "prompt-64x64-42.png").tobytes() for name in names}
    assert shown["blue"] == shown["step-000002"]
    assert shown["checkpoint-1"] == shown["step-000001"]
    assert len(set(shown.values())) == 3


def test_a_run_that_goes_on_is_seen_at_its_newest_whole_checkpoint(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The final adapter of step 2 is older than a checkpoint of step 5; one of step 9 is damaged."""
    copy = Project(tmp_path / "copy")
    shutil.copytree(trained.folder, copy.folder)
    shutil.copytree(copy.output / "checkpoint-1", copy.output / "checkpoint-5")
    shutil.copytree(copy.output / "checkpoint-1", copy.output / "checkpoint-9")
    (copy.output / "checkpoint-9" / ADAPTER_FILE).write_bytes(b"")
    assert command(copy, tmp_path / "out", "--no-base", "--no-sheet") == 0
    assert "checkpoint-9 is damaged and passed over" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["step-000005"]
    for step, said in ((9, "checkpoint-9 is damaged"), (3, "has no checkpoint of step 3")):
        assert command(copy, tmp_path / "out", "--adapter", str(step)) == 2
        assert said in (err := capsys.readouterr().err)
        assert "there are checkpoints of step 1, 2, 5, 9" in err


def test_a_final_adapter_that_is_damaged_is_named_among_all(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Project(tmp_path / "copy")
    shutil.copytree(trained.folder, copy.folder)
    whole = (copy.output / ADAPTER_FILE).read_bytes()
    (copy.output / ADAPTER_FILE).write_bytes(whole[: len(whole) // 2])
    assert command(copy, tmp_path / "out", "--no-base", "--no-sheet", "--adapter", "all") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"{ADAPTER_FILE} is damaged and passed over") == 1


def wrong_adapter(project: Project, folder: Path, kind: str) -> Path:
    """An adapter that this model can't use."""
    tensors = load_file(project.output / ADAPTER_FILE)
    metadata = {"simpletune": json.dumps({"model_flavour": "tiny"})} if kind == "layer" else {}
    if kind == "unet":
        tensors = {name.replace("transformer.", "unet.down_blocks."): tensor for name, tensor in tensors.items()}
    elif kind == "flavour":
        metadata = {"simpletune": json.dumps({"model_flavour": "sd3-medium"})}
    elif kind == "layer":
        tensors = {name.replace("blocks.0", "blocks.30"): tensor for name, tensor in tensors.items()}
    elif kind == "width":
        tensors = {n: torch.cat([t, t], dim=1) if "lora_A" in n else t for n, t in tensors.items()}
    path = folder / "wrong.safetensors"
    save_file(tensors, path, metadata)
    if kind == "broken":
        path.write_bytes(path.read_bytes()[:500])
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("flavour", "was trained for sd3-medium, and this config's model is tiny"),
        ("layer", "is for a layer transformer_blocks.30."),
        ("width", "wide, the model's"),
        ("layer", "it seems to be for tiny, and this model is tiny"),
        ("unet", "it seems to be for Stable Diffusion 1, 2 or XL, and this model is tiny"),
        ("broken", "can't be read"),
    ],
)
def test_an_adapter_of_another_model(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    assert command(trained, tmp_path / "out", "--adapter", str(wrong_adapter(trained, tmp_path, kind))) == 2
    assert said in capsys.readouterr().err
    assert not pictures(tmp_path / "out")


def test_nothing_is_drawn_into_the_folder_that_is_trained_on(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures_of_set = load(trained.config)[0].image_sets[0].instance_data_dir
    assert pictures_of_set is not None
    before = sorted(pictures_of_set.rglob("*"))
    assert command(trained, pictures_of_set / "made") == 2
    assert "is trained on" in capsys.readouterr().err
    assert sorted(pictures_of_set.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "  "], "the prompt is empty"),
        (["--prompts", "none.txt"], "none.txt can't be read: No such file or directory"),
        (["--size", "60x64"], "60x64: sides must be multiples of 16 pixels\nhint: write 64x64"),
        (["--size", "4090x64"], "sides must be multiples of 16 pixels\nhint: write 512x64"),
        (["--size", "64x4096"], "64x4096 is beyond what"),
        (["--size", "wide"], "'wide' is no size"),
        (["--adapter", "lost.safetensors"], "a finished run, a step, latest or none"),
        (["--adapter", "."], f". holds no {ADAPTER_FILE}"),
        (["--adapter", "none", "--no-base"], "neither the base nor an adapter is asked for"),
        (["--seed", "1", "--seeds", "2"], "give either one"),
        (["--seed", str(2**70)], "is no seed"),
        (["--scale", "nan"], "--scale: nan is no strength"),
        (["--adapter", "none", "--adapter", "1"], "--adapter none beside other adapters"),
        (["--skip-layers", "0,x"], "'0,x' names no blocks: write 7,8,9, or none"),
        (["--skip-layers", "1,4"], "has no block 4\nhint: its blocks are 0 to 3"),
        (["--skip-layers", "1", "--guidance", "1"], "--skip-layers has no effect with guidance 1"),
        (["--skip-layers", "1", "--skip-stop", "0.01"], "--skip-stop 0.01 must be above --skip-start 0.01"),
        (["--skip-scale", "2"], "without blocks to skip"),
        (["--vary"], "--vary: no prompt has alternatives"),
        (["--vary", "--prompt", "a {red|blue fox"], "a { is never closed"),
        (["--set", "lora_rnk=3"], 'unknown key "lora_rnk"'),
        (["--set", "validation_prompt=null"], "there are no prompts"),
        (["--set", "output_dir=elsewhere"], "--adapter FILE or see the base alone: --adapter none"),
    ],
)
def test_mistakes(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command(trained, tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_runs_folder_stands_for_its_config(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.folder)
    options = ["--adapter", "none", "--steps", "1", "--output", str(tmp_path / "out")]
    assert run(["generate", "output", *options]) == 0
    said = capsys.readouterr()
    assert "the config of that run: config.json" in said.err
    assert "next: simpletune evaluate config.json" in said.out


def test_a_runs_folder_that_no_config_names(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run in a folder that --set named, the command to copy has what it was started with."""
    for name in ("config.json", "multidatabackend.json", "pictures"):
        (tmp_path / name).symlink_to(trained.folder / name)
    monkeypatch.chdir(tmp_path)
    described = json.loads((trained.output / "run.json").read_text())
    described["config"]["output_dir"] = {"value": str(tmp_path / "output-2"), "origin": "--set"}
    described["config"]["seed"] = {"value": 7, "origin": "--set"}
    (tmp_path / "output-2").mkdir()
    (tmp_path / "output-2/run.json").write_text(json.dumps(described))
    assert run(["generate", "output-2"]) == 2
    error = capsys.readouterr().err
    assert "output-2 is a run's output folder, and no config.json around it" in error
    command = shlex.split(error.splitlines()[-1])
    assert command[:3] == ["simpletune", "generate", "config.json"]
    assert sorted(command[4::2]) == ["output_dir=output-2", "seed=7"]
    (tmp_path / "config.json").unlink()
    assert run(["generate", "output-2"]) == 2
    assert "name the config.json that it was trained with" in capsys.readouterr().err


def test_what_is_to_be_corrected(trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for start in ("generate", "train"):
        assert run([start, str(trained.config), "--set", "lora_rnk=3"]) == 2
        assert "hint: correct what was given with --set and try again" in capsys.readouterr().err
    assert run(["generate", str(tmp_path)]) == 2
    assert f"there is no {tmp_path / 'config.json'}" in capsys.readouterr().err
    assert run(["generate", str(trained.output / "other.json")]) == 2
    assert f"there is no {trained.output / 'other.json'}" in capsys.readouterr().err
    wrong = tmp_path / "config.json"
    wrong.write_text("{")
    assert run(["generate", str(wrong), "--set", "lora_rnk=3"]) == 2
    assert "hint: correct the files and try again" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command(trained, tmp_path / "file") == 2
    assert "--output:" in capsys.readouterr().err


def test_the_files_own_prompts_sizes_and_settings(trained: Project, tmp_path: Path) -> None:
    """Options over config: prompts of a file, several sizes, and how it is sampled, in a folder named after that."""
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\n{OTHER}\n", encoding="utf-8")
    arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--size", "64", "--size", "32x48", "--steps", "1"]
    arguments += ["--guidance", "1.5", "--adapter", "none"]
    assert run(["generate", str(trained.config), *arguments]) == 0
    folder = trained.output / "generated" / "1-steps-guidance-1.5"
    made = {path.name for path in (folder / "base").iterdir()}
    assert len(made) == 4
    assert {"a-red-ball-64x64-42.png", "a-red-ball-32x48-42.png"} <= made
    with Image.open(folder / "base" / "a-red-ball-32x48-42.png") as image:
        assert image.size == (32, 48)


def test_another_precision_fits_in_beside(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder of its own, so that neither takes the other's place; --set reaches base and encoders."""
    keys = ["base_model_precision=int8-quanto", "text_encoder_3_precision=int8-quanto"]
    arguments = ["--steps", "1", *(word for key in keys for word in ("--set", key))]
    assert run(["generate", str(trained.config), "--prompt", "a green fox", *arguments]) == 0
    assert f"next: simpletune evaluate {trained.config} --set {keys[0]} --set {keys[1]}\n" in capsys.readouterr().out
    folder = trained.output / "generated" / "1-steps-guidance-5-int8-quanto-int8-quanto"
    said = entries(folder / "step-000002" / "a-green-fox-64x64-42.png")
    assert said["precision"] == "int8-quanto, no"
    assert said["text_encoders"] == "no_change, no_change, int8-quanto; 32 tokens"
    assert said["software"].startswith("simpletune ")


def test_from_python(trained: Project, tmp_path: Path) -> None:
    """As docs/generate.md shows it."""
    settings, _ = load(trained.config, ["validation_num_inference_steps=1"])
    order = order_of(settings, prompts=[PROMPT], seeds=[1, 2, 1], adapter=trained.output, guidance=1)
    made = generate(settings, order, tmp_path, SilentReporter(), sheet=False)
    assert [(each.variant, each.seed) for each in made.pictures] == [
        ("base", 1),
        ("base", 2),
        ("output", 1),
        ("output", 2),
    ]
    assert all(each.path.is_file() and each.prompt == PROMPT for each in made.pictures)
    assert (made.made, made.kept, made.sheet) == (4, 0, None)
    for nothing in ("prompts", "seeds", "sizes"):
        with pytest.raises(UsageError, match=f"no {nothing}"):
            order_of(settings, **{nothing: []})


def test_of_all_adapters_the_final_one_stands_for_the_checkpoint_of_its_step(trained: Project) -> None:
    """It is the very file that a card finds its metrics by."""
    settings, _ = load(trained.config)
    variants = order_of(settings, adapter="all").variants
    assert [variant.adapter.path.parent.name for variant in variants if variant.adapter] == ["checkpoint-1", "output"]
