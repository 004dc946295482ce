"""The end of a training in words: what was made, how good it is, and what to type next."""

import json
from types import SimpleNamespace

import pytest
from made_run import make_run

from simpletune.results.summary import Ending, summary

FINISHED = """
done: 60 steps in 3:25
  adapter   made/output/pytorch_lora_weights.safetensors (1000 B, rank 16)
  pictures  made/output/gallery.png: base beside tuned
  plots     made/output/plots.png
  card      made/output/README.md
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "made")
    for name in ("gallery.png", "plots.png", "README.md"):
        (folder / name).write_bytes(b"")
    return folder


def ended(run, trained=60, overrides=(), **more):
    return Ending(run, run.parent / "config.json", overrides, 205.0, trained, **more)


def held_out(run, count, *losses):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "step"]
    lines[1:1] = [{"kind": "validation", "step": step, "validation_loss": loss} for step, loss in enumerate(losses)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "held_out": data["trained"][:count]}))


def test_a_finished_run(run):
    held_out(run, 2, 0.78474, 0.5, 0.41384)
    phases = [
        {"phase": "encode text", "seconds": 0.5, "peak_allocated_gib": 4.1, "peak_reserved_gib": 4.5},
        {"phase": "train", "seconds": 190.2, "peak_allocated_gib": 3.25, "peak_reserved_gib": 3.5},
        {"phase": "validate", "seconds": 12, "peak_allocated_gib": 3.0, "peak_reserved_gib": 3.1},
    ]
    (run / "phases.json").write_text(json.dumps(phases))
    lines = summary(ended(run))
    assert "\n".join(lines[:6]) + "\n" == FINISHED
    assert lines[6] == "  held out  loss 0.7847 -> 0.4138, on 2 pictures kept back"
    assert lines[7] == "  time      train 3:10, validate 12 s"
    assert lines[8].startswith("  speed     ")
    assert lines[8].endswith(" images/s while training")
    assert lines[9:] == [
        "  memory    4.10 GiB at most, in encode text",
        "  reserved  GiB at most: encode text 4.50, train 3.50, validate 3.10",
        "",
        "next",
        "  simpletune report made/output --open",
        "      all of it on one page",
        '  simpletune generate made/config.json --prompt "..."',
        "      pictures of what you like",
        "  simpletune evaluate made/config.json",
        "      how good it is, in figures",
        "  simpletune push made/output",
        "      to the hub, private",
    ]


def test_the_commands_of_a_run_beside_its_config_have_their_purpose_beside_them(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert summary(ended(run))[-4:] == [
        "  simpletune report output --open                 all of it on one page",
        '  simpletune generate config.json --prompt "..."  pictures of what you like',
        "  simpletune evaluate config.json                 how good it is, in figures",
        "  simpletune push output                          to the hub, private",
    ]


def test_a_run_that_was_stopped(run):
    checkpoint = run / "checkpoint-40"
    checkpoint.mkdir()
    (run / "checkpoint-5").mkdir()
    (checkpoint / "pytorch_lora_weights.safetensors").write_bytes(bytes(2048))
    (run / "finished.json").unlink()
    text = "\n".join(summary(ended(run, None, ["lora_rank=8", "validation_prompt=a cat"])))
    assert text.startswith(
        "\nstopped after step 60 of 60, 3:25 after the start\n  saved     made/output/checkpoint-40: "
    )
    assert (
        "  adapter   made/output/checkpoint-40/pytorch_lora_weights.safetensors (2.0 KiB,\n            rank 16)" in text
    )
    assert "  pictures  made/output/samples\n" in text
    assert "  simpletune train made/config.json --set lora_rank=8 --set 'validation_prompt=a cat'\n" in text
    assert "gallery" not in text
    assert "push" not in text


@pytest.mark.parametrize(
    ("trained", "heading"),
    [(0, "done: 60 steps, all of them before this start"), (20, "done: 60 steps, 20 of them in 3:25")],
)
def test_a_run_that_went_on_or_was_done(run, trained, heading):
    assert summary(ended(run, trained))[1] == heading


def test_without_held_out_pictures_nothing_is_claimed(run):
    held_out(run, 0)
    assert '  held out  no pictures: "num_eval_images" keeps some back to judge by' in summary(ended(run))


def test_a_run_stopped_before_its_first_validation_says_what_is_kept_back(run):
    held_out(run, 2)
    assert "  held out  no loss yet, 2 pictures kept back" in summary(ended(run))


def test_a_loss_that_is_none_is_shown_as_it_is(run):
    held_out(run, 1, 0.5, None)
    assert "  held out  loss 0.5000 -> nan, on 1 picture kept back" in summary(ended(run))


def test_warnings_are_said_again_the_first_of_them(run):
    warnings = ["the card is hot " * 8, "two\nlines", "\x1b[2J", "fourth", "fifth"]
    lines = summary(ended(run, warnings=warnings))
    at = lines.index("  warnings  5, the last 2 are above")
    assert lines[at + 1 : at + 5] == [
        "            - the card is hot the card is hot the card is hot the card is hot",
        "              the card is hot the card is hot the card is hot the card is hot",
        "            - two lines",
        "            - \\x1b[2J",
    ]


def test_a_run_that_was_shared_is_not_pushed_again(run):
    lines = summary(ended(run, shared="https://hub.example/somebody/signs"))
    assert "  shared    https://hub.example/somebody/signs" in lines
    assert "push" not in "\n".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_lines_fit_but_for_paths_and_commands(run, width):
    held_out(run, 2, 0.9, 0.8)
    long = [
        line for line in summary(ended(run, warnings=["a warning of some length " * 5]), width) if len(line) > width
    ]
    assert all("made/" in line for line in long)
    assert not long or width < 80


@pytest.mark.parametrize("steps", [60, 20])
def test_an_evaluation_is_named_with_what_it_chose(run, monkeypatch, steps):
    best = SimpleNamespace(variant="step-40", reason="CMMD 0.41, against 0.52 of step-20")
    found = SimpleNamespace(best=best, variants=[SimpleNamespace(steps=None), SimpleNamespace(steps=steps)])
    monkeypatch.setattr("simpletune.results.summary.load_evaluation", lambda _: found)
    text = " ".join(" ".join(summary(ended(run))).split())
    assert "evaluated best is step-40: CMMD 0.41, against 0.52 of step-20" in text
    assert ("before the last steps" in text, "simpletune evaluate" in text) == (steps == 20, steps == 20)


def test_a_damaged_evaluation_is_no_reason_to_fail(run):
    (run / "evaluation.json").write_text("{")
    assert "simpletune evaluate" in "\n".join(summary(ended(run)))


def test_without_prompts_the_captions_are_evaluated(run):
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "validation_prompts": {}}))
    assert "  simpletune evaluate made/config.json --captions 30" in summary(ended(run))
