"""Every way through the wizard ends in files that are valid, the same each time, and train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pytest
from script import always, facts, visit, write
from walks import Walked, walk_all

from simpletune.config.schema import entry_keys
from simpletune.config.validate import Problem, check
from simpletune.wizard.compose import changes, checked, contents
from simpletune.wizard.start import parse_sets
from simpletune.wizard.state import Answer, Base
from simpletune.wizard.unattended import answer_all, dataset_answers

WALKED_ON = ("none", "8gb", "unusable", "apple")
MOST_KEYS = 30


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> list[Walked]:
    """All walks; their files are written."""
    return walk_all(tmp_path_factory.mktemp("walks"), WALKED_ON, lambda walked: write(walked.visit))


def of_the_files(problems: Iterable[Problem]) -> list[str]:
    """What is wrong with the files themselves, warnings too. That this machine has no such GPU is none of it."""
    return [f"{found.path}: {found.message}" for found in problems if found.kind == "config"]


def test_every_walk_is_valid_before_and_after_it_is_written(walks: list[Walked]) -> None:
    for walked in walks:
        planned, written = checked(walked.visit.state).problems, check(walked.config).problems
        assert of_the_files(written) == [], walked
        assert [found.message for found in planned] == [found.message for found in written], walked


def test_every_walk_has_few_keys(walks: list[Walked]) -> None:
    assert max(len(walked.visit.config) for walked in walks) <= MOST_KEYS


def test_the_same_answers_give_the_same_bytes_whoever_asks(walks: list[Walked]) -> None:
    """The interview's answers as a file for --answers would hold them, for a config.json that isn't there yet."""
    for walked in walks:
        answers = json.loads(json.dumps(walked.visit.answers))
        world = facts(walked.config.parent, walked.machine)
        reached = answer_all(world, Base(walked.config), {name: Answer(value) for name, value in answers.items()})
        assert contents(reached.state) == contents(walked.visit.state), walked


PROMPTS = {"validation_prompt", "validation_prompts_file"}  # several make a file of their own, which no flag does
LYCORIS = {"lora_type", "lycoris_config"}  # with a file of its own, as prompts have


def test_the_same_values_by_set_give_the_same_bytes(walks: list[Walked]) -> None:
    """Each key that a walk wrote is given by --set, each folder by --dataset; the rest is answered."""
    for walked in walks:
        state, config = walked.visit.state, walked.visit.config
        keys = {key for step in walked.visit.walk.steps for key in step.question.keys} - PROMPTS - LYCORIS
        sets = [f"{key}={json.dumps(config[key])}" for key in keys if key in config]
        sets += [
            f"dataset.{index}.{key}={json.dumps(entry[key])}"
            for index, entry in enumerate(state.images)
            for key in keys - {"instance_data_dir", "dataset_name"}
            if key in entry
        ]
        base = Base(walked.config, sets=parse_sets(sets))
        folders = [walked.visit.answers[f"data.{index}.folder"] for index in range(len(state.images))]
        flags = dataset_answers(folders, base) if len(set(folders)) == len(folders) else {}  # each folder once
        asked = [step.question for step in walked.visit.walk.steps]
        said = {question.id for question in asked if base.sets_any(question.id, question.keys)}
        rest = {name: Answer(value) for name, value in walked.visit.answers.items() if name not in said}
        reached = answer_all(facts(walked.config.parent, walked.machine), base, {**rest, **flags})
        assert contents(reached.state) == contents(state), walked


def test_going_through_written_files_without_changing_anything_changes_nothing(walks: list[Walked]) -> None:
    for walked in walks:
        world = facts(walked.config.parent, walked.machine)
        seen = visit(walked.config, always({}), world)
        assert seen.prompter.asked == ["review"], walked
        assert changes(contents(seen.state)) == {}, walked
        assert [option.label for option in seen.prompter.screens[0].options or () if "*" in option.label] == [], walked


def test_going_through_all_questions_again_changes_nothing_either(walks: list[Walked]) -> None:
    """Whatever stands in the files is what each question comes with."""
    for walked in walks[:: max(1, len(walks) // 8)]:
        world = facts(walked.config.parent, walked.machine)
        seen = visit(walked.config, lambda screen: screen.default, world, through=True)
        assert len(seen.prompter.asked) == len(set(seen.prompter.asked)) > 8
        assert changes(contents(seen.state)) == {}, walked


# --- training what was written

REPLACED = {"device", "device_memory_gb", "model_flavour", "pretrained_model_name_or_path", "hf_endpoint",
            "pretrained_text_encoders_path", "output_dir", "max_train_steps", "num_train_epochs", "resolution",
            "instance_data_dir", "dataset_name", "metadata_path", "mask_data_dir",
            "instance_prompt", "validation_resolution"}  # fmt: skip
"""Keys that are set to something else, so that it trains here and in seconds, and keys whose values are any text."""
COUNTS = {"vae_batch_size", "text_encoder_batch_size", "num_eval_images", "repeats"}
"""Keys of which one value is as good as another, but none."""
WITHOUT_EFFECT = {"checkpoint_step_interval", "validation_step_interval"}  # in a run of two steps
ELSEWHERE = {"mask_source", "crop_style", "crop_variants", "horizontal_flip", "caption_shuffle_count",
             "is_regularisation_data", "regularisation_weight", "dataset_split", "image_column",
             "caption_column"}  # fmt: skip
"""Keys of which the trainer's own tests train every value."""


def used(walked: Walked) -> set[tuple[str, str]]:
    """The keys and values of a walk that training it here puts to use."""
    state = walked.visit.state
    keys = {key for step in walked.visit.walk.steps for key in step.question.keys}
    keys -= REPLACED | WITHOUT_EFFECT | ELSEWHERE
    of_sets = {key for key in keys if key in entry_keys("image")}
    values = [(key, state.value(key)) for key in keys - of_sets]
    values += [(key, state.entry_value(index, key)) for key in of_sets for index in range(len(state.images))]
    values += [("type", state.entry_value(index, "type")) for index in range(len(state.images))]
    return {(key, json.dumps(value if key not in COUNTS else value > 1)) for key, value in values}


def covering(walks: Sequence[Walked]) -> list[Walked]:
    """Few walks that have every value of every key among them."""
    left, chosen = set().union(*map(used, walks)), []
    while left:
        chosen.append(max(walks, key=lambda walked: len(used(walked) & left)))
        left -= used(chosen[-1])
    return chosen


def overrides(walked: Walked) -> list[str]:
    """What makes a run of the tiny model out of any files: two steps at 64 pixels, on this processor."""
    config = walked.visit.config
    values = {
        "device": "cpu", "model_flavour": "tiny", "pretrained_model_name_or_path": None, "hf_endpoint": None,
        "pretrained_text_encoders_path": None, "device_memory_gb": None, "num_train_epochs": None, "max_train_steps": 2,
        "validation_resolution": 64, "validation_num_inference_steps": 1,
    }  # fmt: skip
    values["optimizer"] = "adamw" if config["optimizer"] == "adamw8bit" else config["optimizer"]  # that needs CUDA
    sets = [f"dataset.{index}.resolution=64" for index in range(len(walked.visit.state.images))]
    return [*(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in values.items()), *sets]


def test_what_the_walks_made_trains(walks: list[Walked]) -> None:
    from simpletune.progress import SilentReporter
    from simpletune.trainer.launch import launch

    chosen = covering(walks)
    assert len(chosen) >= 5, "the walks differ too little"
    for walked in chosen:
        outcome = launch(walked.config, overrides(walked), SilentReporter())
        assert outcome is not None, walked
        assert outcome.steps == 2, walked
        assert outcome.adapter.is_file(), walked
        assert (outcome.gallery is None) == (walked.visit.answers["samples.prompts"] == "none"), walked
