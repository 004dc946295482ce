"""What a start does in a folder that holds a run: what may have changed since, and what is refused, in which words."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from project import Project
from resuming import (
    at_checkpoint,
    change_state,
    commands,
    contents,
    damage,
    empty,
    newer,
    only_adapter,
    refused,
    run_command,
    train,
)
from safetensors import safe_open

from simpletune import files
from simpletune.config import continuing
from simpletune.config.load import load
from simpletune.config.schema import config_keys
from simpletune.errors import ConfigError, TrainingFailed, UsageError
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.results.card.facts import gather_facts
from simpletune.trainer import start
from simpletune.trainer.asked import Asked


def test_each_key_is_in_exactly_one_class() -> None:
    classes = (continuing.BOUND, continuing.MAY_CHANGE, continuing.NOT_COMPARED)
    assert sorted(key for one in classes for key in one) == sorted(config_keys())


def test_what_may_change_takes_effect_and_is_said(run: Project) -> None:
    at_checkpoint(run, 2)
    said = train(
        run, "learning_rate=0.002", "max_train_steps=3", "validation_prompt=a red ball", "checkpoints_total_limit=9"
    )
    assert said.has("learning_rate: 0.01 -> 0.002")
    assert said.has("max_train_steps: 4 -> 3")
    assert said.has("checkpoints_total_limit: 5 -> 9")
    assert said.has("validation_prompts: {} ->", "a red ball")
    assert said.has("learning rate after step 2: 0.01 -> 0.002")
    assert [line["learning_rate"] for line in run.metrics().steps] == [0.01, 0.01, 0.002]
    assert (run.output / "samples/step-000003").is_dir()
    again = train(run, "learning_rate=0.002", "max_train_steps=4", "validation_prompt=a red ball")
    assert not again.has("learning_rate:"), "it is as it was in the checkpoint before"


@pytest.mark.slow
def test_a_longer_run_says_where_its_learning_rate_goes_on(run: Project) -> None:
    said = train(run, "max_train_steps=6", "lr_scheduler=linear")
    assert said.has("lr_scheduler: ", "constant", "linear")
    assert said.has("learning rate after step 4: 0.01 -> 0.00333")


@pytest.mark.usefixtures("light")
def test_what_is_bound_is_refused_with_where_it_is_set(run: Project) -> None:
    run.config.write_text(json.dumps(json.loads(run.config.read_text()) | {"lora_rank": 8}, indent=1))
    error = refused(run, "seed=7")
    assert isinstance(error, ConfigError)
    line = next(i for i, text in enumerate(run.config.read_text().splitlines(), 1) if "lora_rank" in text)
    assert f"  lora_rank: 4 -> 8 (config.json:{line}:15)" in error.message
    assert "  lora_alpha: 4.0 -> 8.0 (follows from lora_rank)" in error.message
    assert "  seed: 42 -> 7 (--set seed)" in error.message
    unfinished = refused(run, "seed=7", "max_train_steps=6")
    assert "  to continue that run, with what it had:" in (unfinished.hint or "").splitlines()
    assert "output/checkpoint-4" in error.message
    assert commands(error) == [
        "simpletune train config.json --set lora_rank=4 --set seed=42 --set max_train_steps=8",
        "simpletune train config.json --set seed=7 --new-folder",
        "mv output output-discarded && simpletune train config.json --set seed=7",
    ]


def test_the_three_commands_do_what_they_say(run: Project) -> None:
    run.config.rename(run.folder / "it's mine.json")
    run = Odd(run.folder)
    run.set(optimizer_config={"eps": 1e-7})
    proposed = commands(refused(run, "lora_target=attention-image", "max_train_steps=2"))
    assert run_command(proposed[0]).has("continuing from checkpoint-4: step 4 of 6")
    assert not (run.folder / "output-2").exists()
    assert run_command(proposed[1]).has("a new run in output-2; what is in output stays as it is")
    assert json.loads((run.folder / "output-2/started-beside.json").read_text()) == {
        "started_beside": "output",
        "which_had_steps": 6,
    }
    assert (run.folder / "output/checkpoint-6").is_dir()
    run_command(proposed[2])
    assert (run.folder / "output-discarded/checkpoint-6").is_dir()
    assert (run.folder / "output/checkpoint-2").is_dir()


class Odd(Project):
    @property
    def config(self) -> Path:
        return self.folder / "it's mine.json"


@pytest.mark.slow
def test_a_new_run_beside_is_continued_and_not_begun_again(run: Project) -> None:
    said = train(run, "lora_rank=8", "max_train_steps=1", new_folder=True)
    assert said.has("    simpletune train config.json", "--set output_dir=output-2")
    error = refused(run, "lora_rank=8", "max_train_steps=3")
    (again,) = (line for line in commands(error) if "output_dir=output-2" in line)
    assert run_command(again).has("continuing from checkpoint-1: step 1 of 3")
    train(run, "lora_rank=8", "max_train_steps=1", new_folder=True)
    assert (run.folder / "output-3/checkpoint-1").is_dir()


def test_a_new_folder_is_the_named_one_while_that_is_empty(run: Project) -> None:
    shutil.rmtree(run.output)
    said = train(run, "max_train_steps=1", new_folder=True)
    assert (run.output / "checkpoint-1").is_dir()
    assert not said.has("stays as it is")


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("left", ["checkpoints", "adapters", "results"])
def test_none_refuses_a_folder_with_a_run(run: Project, left: str) -> None:
    if left == "adapters":
        for path in run.output.glob("checkpoint-*"):
            only_adapter(path)
    elif left == "results":
        for path in run.output.glob("checkpoint-*"):
            shutil.rmtree(path)
    error = refused(run, "resume_from_checkpoint=none")
    assert "output holds" in error.message
    continues = [line for line in commands(error) if "resume_from_checkpoint=latest" in line]
    assert len(continues) == (left == "checkpoints")
    assert any(line.endswith("--new-folder") for line in commands(error))
    assert any(line.startswith("mv output output-discarded && ") for line in commands(error))


@pytest.mark.usefixtures("light")
def test_what_continues_a_run_has_the_values_it_is_bound_to(run: Project) -> None:
    error = refused(run, "resume_from_checkpoint=none", "seed=3")
    (again,) = (line for line in commands(error) if "resume_from_checkpoint=latest" in line)
    assert "seed=3" not in again
    for steps, longer in ((4, True), (6, False)):
        error = refused(run, "resume_from_checkpoint=none", f"max_train_steps={steps}")
        (again,) = (line for line in commands(error) if "resume_from_checkpoint=latest" in line)
        assert ("max_train_steps=8" in again) == longer, "a finished run would do nothing"


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("left", ["adapters", "results", "adapter", "metrics", "aside"])
def test_a_run_without_a_checkpoint_to_go_on_from_never_begins_at_0(run: Project, left: str) -> None:
    for path in run.output.glob("checkpoint-*"):
        if left == "adapters":
            only_adapter(path)
        elif left == "aside":
            path.rename(path.with_name(f"abandoned-1-{path.name}"))
        else:
            shutil.rmtree(path)
    if left not in {"adapters", "results"}:
        (run.output / "finished.json").unlink()
    if left in {"metrics", "aside"}:
        (run.output / "pytorch_lora_weights.safetensors").unlink()
    if left == "metrics":
        with (run.output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "step", "step": 5}) + "\n")
    error = refused(run)
    assert "no checkpoint that it can be continued from" in error.message
    assert [line.partition(" ")[0] for line in commands(error)] == ["simpletune", "mv"]


def test_a_run_killed_before_its_first_checkpoint_begins_again_and_says_so(run: Project) -> None:
    at_checkpoint(run, 0)
    (run.output / "pytorch_lora_weights.safetensors").unlink()
    lines = (run.output / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.output / "metrics.jsonl").write_text("".join(line for line in lines if '"step": 1,' in line))
    said = train(run, "max_train_steps=1")
    assert said.has("ended before its first checkpoint: it begins again at step 0")
    assert [line["step"] for line in run.metrics().steps] == [1]


def test_latest_passes_over_what_is_damaged_and_names_it(run: Project) -> None:
    damage(run.output / "checkpoint-4")
    said = train(run)
    assert said.has("warning: ", "checkpoint-4 is damaged and passed over", "optimizer.safetensors")
    assert said.has("continuing from checkpoint-2: step 2 of 4")


@pytest.mark.usefixtures("light")
def test_all_damaged_is_an_error_that_names_them(run: Project) -> None:
    damage(run.output / "checkpoint-4")
    (run.output / "checkpoint-2/manifest.json").unlink()
    error = refused(run)
    assert isinstance(error, TrainingFailed)
    assert "checkpoint-4: optimizer.safetensors does not have the SHA-256" in error.message
    assert "checkpoint-2: manifest.json is missing" in error.message
    assert len(commands(error)) == 2


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "checkpoint-2 is damaged: optimizer.safetensors does not have the SHA-256"),
        (only_adapter, "checkpoint-2 holds only the adapter"),
        (empty, "checkpoint-2 is not a checkpoint folder"),
        (lambda path: (path / "state.json").unlink(), "checkpoint-2 is damaged: state.json is missing"),
        (newer, "is of a newer version of simpletune"),
    ],
)
def test_a_named_checkpoint_is_never_passed_over(run: Project, change: Callable[[Path], object], said: str) -> None:
    change(run.output / "checkpoint-2")
    error = refused(run, "resume_from_checkpoint=output/checkpoint-2", "max_train_steps=6")
    assert said in error.message
    assert error.hint


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_checkpoints_that_are_proposed_can_be_named_so(
    run: Project, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the path was given: in the file it begins at the file's folder, wherever one stands."""
    only_adapter(run.output / "checkpoint-2")
    run.set(resume_from_checkpoint="output/checkpoint-2", max_train_steps=6)
    if elsewhere:
        monkeypatch.chdir(run.folder.parent)
    error = refused(run)
    (other,) = re.findall(r"name another one \((.*)\)", error.hint or "")
    run.set(resume_from_checkpoint=other)
    assert train(run, dry_run=True).has("a start would go on from", "checkpoint-4")


@pytest.mark.usefixtures("light")
def test_the_newest_of_a_newer_version_is_not_trained_once_more(run: Project) -> None:
    newer(run.output / "checkpoint-4")
    error = refused(run)
    assert "checkpoint-4 is of a newer version of simpletune: in format 1000" in error.message
    assert "update simpletune" in (error.hint or "")


def test_a_checkpoint_of_another_folder_starts_a_run_once(run: Project) -> None:
    fork = ("resume_from_checkpoint=output/checkpoint-2", "output_dir=fork", "max_train_steps=3")
    assert train(run, *fork).has("continuing from checkpoint-2: step 2 of 3")
    elsewhere = refused(run, *fork[:1], "output_dir=other", "lora_rank=8")
    assert not any(line.startswith("mv") for line in commands(elsewhere)), "there is nothing to move"
    error = refused(run, *fork)
    assert "fork holds a run of 3 steps already" in error.message
    assert "resume_from_checkpoint=latest" in commands(error)[0]


def test_a_finished_run_does_nothing_whatever_may_have_changed(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run.output)
    (run.folder / "pictures/0-red.txt").write_text("a scarlet ball")
    monkeypatch.setattr(SD3, "load_text_encoders", None)
    said = train(run, "learning_rate=0.5", "max_train_steps=3", "validation_prompt=a cube")
    assert said.has("this run is finished: 4 steps are done, and 3 were asked for")
    assert said.has("learning_rate: 0.01 -> 0.5")
    assert contents(run.output) == before


def read_tensors(path: Path) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The numbers of a file, and what its header says beside them."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).ravel().tolist() for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("lost", ["gone", "cut short"])
def test_a_finished_run_without_its_adapter_writes_it_again(run: Project, lost: str) -> None:
    """With the card, which has the file's digest."""
    adapter = run.output / "pytorch_lora_weights.safetensors"
    before = read_tensors(adapter)
    if lost == "gone":
        adapter.unlink()
    else:
        adapter.write_bytes(adapter.read_bytes()[:-8])
    with pytest.raises(UsageError) as caught:
        gather_facts(run.output)
    assert "`simpletune train`" in (caught.value.hint or "")
    said = train(run)
    assert said.has("warning: output/pytorch_lora_weights.safetensors can't be read", "again from checkpoint-4")
    assert (read_tensors(adapter), len(run.losses())) == (before, 4)
    assert files.sha256(adapter) in (run.output / "README.md").read_text(encoding="utf-8")
    assert train(run).has("this run is finished")


@pytest.mark.slow
def test_fewer_steps_than_are_done_end_a_run_where_it_is(run: Project) -> None:
    (run.output / "finished.json").unlink()
    train(run, "max_train_steps=3")
    assert json.loads((run.output / "finished.json").read_text()) == {"step": 4}
    assert len(run.losses()) == 4


@pytest.mark.slow
def test_other_versions_are_named(run: Project) -> None:
    at_checkpoint(run, 2)
    state = json.loads((run.output / "checkpoint-2/state.json").read_text())["run"]
    change_state(run.output / "checkpoint-2", versions=state["versions"] | {"torch": "2.0.1"}, device="cuda")
    assert train(run, "max_train_steps=3").has("since checkpoint-2: torch 2.0.1 -> ", "device cuda -> cpu")


@pytest.mark.usefixtures("light")
def test_another_number_of_processes_is_refused(run: Project) -> None:
    change_state(run.output / "checkpoint-4", processes=2)
    error = refused(run, "max_train_steps=5")
    assert "was trained by 2 processes, and this start has one process" in error.message


def test_a_checkpoint_of_before_all_this_goes_on(run: Project) -> None:
    at_checkpoint(run, 2)
    state = json.loads((run.output / "checkpoint-2/state.json").read_text())
    for key in ("free_settings", "model", "processes", "device"):
        del state["run"][key]
    del state["run"]["settings"]["base_model_matmul"]
    (run.output / "checkpoint-2/state.json").write_text(json.dumps(state))
    change_state(run.output / "checkpoint-2")
    assert train(run, "max_train_steps=3").has("continuing from checkpoint-2: step 2 of 3")


def test_the_commit_of_a_model_is_its_revision(run: Project) -> None:
    settings, _ = load(run.config, ("revision=abc",))
    saved = json.loads((run.output / "checkpoint-4/state.json").read_text())["run"]
    assert continuing.changed_settings(continuing.settings_in(saved), settings) == ['revision: null -> "abc"']
    saved["model"]["commit"] = "abc"
    assert continuing.changed_settings(continuing.settings_in(saved), settings) == []


def test_a_key_that_came_later_had_its_default(run: Project) -> None:
    saved = dict(continuing.saved_settings(run.output) or {})
    del saved["huber_c"]
    settings, _ = load(run.config)
    assert continuing.changed_settings(saved, settings) == []
    other, _ = load(run.config, ("loss_type=huber", "huber_c=0.3"))
    assert "huber_c: 0.1 -> 0.3" in continuing.changed_settings(saved, other)


def test_a_dry_run_says_where_a_start_would_begin(run: Project) -> None:
    assert train(run, dry_run=True).has("this run is finished")
    assert train(run, "max_train_steps=5", dry_run=True).has("a start would go on from output/checkpoint-4")
    said = train(run, "lora_rank=8", dry_run=True)
    assert said.has("warning: a start would be refused")
    assert said.has("lora_rank: 4 -> 8")


def test_a_folder_that_is_trained_in_is_left_to_its_lock(run: Project) -> None:
    from simpletune.trainer.lock import run_lock

    settings, _ = load(run.config, ("lora_rank=8",))
    with run_lock(run.output):
        assert start.check_early(settings, Asked(run.config), SilentReporter()) is None
    with pytest.raises(ConfigError):
        start.check_early(settings, Asked(run.config), SilentReporter())


def test_no_command_says_more_than_the_start_did(run: Project) -> None:
    asked = Asked(run.config, ("optimizer_config.eps=1e-7", "output_dir=-odd name", "seed=1"))
    assert asked.having({"optimizer_config": "{}"}).overrides == (
        "output_dir=-odd name",
        "seed=1",
        "optimizer_config={}",
    )
    words: Sequence[str] = shlex.split(asked.command("--new-folder"))
    assert words[3:5] == ["--set", "optimizer_config.eps=1e-7"]
    assert "output_dir=-odd name" in words
