"""What a person is told when the device's memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from project import Project

from simpletune.config.load import load
from simpletune.data.forecast import sketch
from simpletune.errors import OutOfMemory
from simpletune.machine.estimate import GIB
from simpletune.machine.forecast import PhaseMemory, Plan, forecast
from simpletune.machine.ways_down import Change, applied
from simpletune.models import latents
from simpletune.models.memory import ran_out
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.results.pictures import read_description
from simpletune.results.run_folder import list_checkpoints, verify
from simpletune.results.studio import Planned, Shot
from simpletune.trainer import short_memory
from simpletune.trainer.launch import launch
from simpletune.trainer.session import Session
from simpletune.trainer.short_memory import Shortage, out_of_memory, remedies

Make = Callable[..., Project]

TRAINING = PhaseMemory("train", {"weights": 4 * GIB, "activations": 9 * GIB, "adapter": GIB // 4, "other": GIB // 8})
CHECKPOINTING = Change("gradient_checkpointing", True, 8 * GIB, "train", "steps take about a third longer")
SMALLER = (
    Change("train_batch_size", 2, 4 * GIB, "train", "the same result, at a lower speed"),
    Change("gradient_accumulation_steps", 2, 0, "train", "the same result, at a lower speed"),
)
INT8 = Change("base_model_precision", "int8-quanto", 2 * GIB, "train", "the base is a little less exact")


@pytest.mark.parametrize(
    ("shortage", "changes", "message", "hint"),
    [
        (
            Shortage("train", "576.00 MiB", int(9.6 * GIB), 10 * GIB),
            [CHECKPOINTING],
            "out of memory while training: 576.00 MiB more didn't fit beside 9.6 GiB; it takes 13.4 GiB by the "
            "estimate, the largest part for activations (9.0 GiB)",
            'set "gradient_checkpointing" to true (steps take about a third longer)',
        ),
        (
            Shortage("train"),
            SMALLER,
            "out of memory while training; it takes 13.4 GiB by the estimate, the largest part for "
            "activations (9.0 GiB)",
            'set "train_batch_size" to 2 and "gradient_accumulation_steps" to 2 (the same result, at a lower speed)',
        ),
        (
            Shortage("load", "20.00 MiB", 3 * GIB, 4 * GIB, others=19 * GIB, bound=frozenset({"base_model_precision"})),
            [INT8],
            "out of memory while loading the model: 20.00 MiB more didn't fit beside 3.0 GiB; it takes 13.4 GiB by the "
            "estimate, the largest part for activations (9.0 GiB); other processes hold 19.0 GiB of the device",
            'end what else uses the device; or set "base_model_precision" to "int8-quanto" (the base is a little less '
            'exact); name another "output_dir", as the checkpoints of this run are bound to its settings',
        ),
        (
            Shortage("validate", others=GIB // 2),
            [],
            "out of memory while validating; it takes 13.4 GiB by the estimate, the largest part for "
            "activations (9.0 GiB)",
            'no key is enough: take a smaller "model_flavour" or a larger card, or set "device" to "cpu"',
        ),
    ],
)
def test_the_words(shortage: Shortage, changes: list[Change], message: str, hint: str) -> None:
    error = out_of_memory(shortage, TRAINING, changes)
    assert (error.message, error.hint, error.exit_code) == (message, hint, 1)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from project import make_project

    settings, _ = load(make_project(tmp_path_factory.mktemp("plan") / "project", pictures=1).config)
    return replace(
        sketch(settings), flavour="sd3-medium", mixed_precision="bf16", bucket=(1024, 1024), train_batch_size=4,
        tokenizer_max_length=154, vae_batch_size=4, validation_sizes=((1024, 1024),),
    )  # fmt: skip


@pytest.mark.parametrize("phase", ["encode text", "encode images", "train", "validate"])
@pytest.mark.parametrize("share", [None, 0.7, 2.0])
def test_by_the_estimate_the_remedies_make_the_phase_fit(plan: Plan, phase: str, share: float | None) -> None:
    """Also where the estimate had said that it would fit anyway, and whatever the other phases take."""
    takes = forecast(replace(plan, vae_batch_size=1, text_encoder_batch_size=1)).phase(phase).bytes
    need, changes = remedies(Shortage(phase, usable=None if share is None else int(share * takes)), plan)
    assert (need.phase, need.bytes) == (phase, takes)
    assert changes
    assert {change.phase for change in changes} == {phase}
    assert not {change.key for change in changes} & {"vae_batch_size", "text_encoder_batch_size"}, "tried by now"
    reached = replace(plan, vae_batch_size=1, text_encoder_batch_size=1)
    for change in changes:
        reached = applied(reached, change)
    assert forecast(reached).phase(phase).bytes <= min(share or 0.9, 0.9) * takes


def test_where_nothing_helps_there_are_no_remedies(plan: Plan) -> None:
    need, changes = remedies(Shortage("load", usable=GIB // 4), plan)
    assert (need.phase, changes) == ("train", ())


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("MPS backend out of memory (MPS allocated: 8.83 GB, other allocations: 87.30 MB)", True),
        ("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
        ("out of resource: shared memory, Required: 262144, Hardware limit: 232448", False),
    ],
)
def test_what_says_that_memory_is_full(said: str, full: bool) -> None:
    assert ran_out(RuntimeError(said)) == full


class Card:
    """torch.cuda's figures of a card: what is free and there in all, and what torch has reserved of it for us."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float, total: float, reserved: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), int(total * GIB)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved * GIB))


@pytest.mark.parametrize(
    ("asked", "usable", "others"), [(None, 9.25, 14), (20, 9.25, 14), (6, 6, 0)], ids=["all", "more", "less"]
)
def test_what_other_processes_hold(
    monkeypatch: pytest.MonkeyPatch, asked: float | None, usable: float, others: float
) -> None:
    """Of 24 GiB 14 are others'; they matter only where they take what "device_memory_gb" would give the run."""
    Card(monkeypatch, free=1, total=24, reserved=8.25)
    settings: Any = type("Settings", (), {"device_memory_gb": asked})
    found = short_memory._usable_and_others(settings, torch.device("cuda"))
    assert found == (usable * GIB, others * GIB)


def full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of")


@pytest.mark.parametrize(
    ("load", "doing"),
    [
        ("load_text_encoders", "encoding captions"),
        ("load_vae", "encoding pictures"),
        ("load_transformer", "training"),
        ("nothing", "loading the model"),
    ],
)
def test_a_run_ends_with_one_error_that_names_the_phase(
    project: Make, monkeypatch: pytest.MonkeyPatch, load: str, doing: str
) -> None:
    """Even a batch of one fails, in the first module that is called; or the transformer can't be loaded."""

    def loaded(self: SD3, *given: Any, **named: Any) -> Any:
        made = original(self, *given, **named)
        module = made.clips[0][1] if load == "load_text_encoders" else getattr(made, "module", made)
        inner = module.encoder if load == "load_vae" else module
        inner.register_forward_pre_hook(full)
        return made

    if load == "nothing":
        monkeypatch.setattr(SD3, "load_transformer", full)
    else:
        original = getattr(SD3, load)
        monkeypatch.setattr(SD3, load, loaded)
    made = project(max_train_steps=1)
    with pytest.raises(OutOfMemory) as caught:
        launch(made.config, (), SilentReporter())
    assert caught.value.message.startswith(f"out of memory while {doing}; it takes ")
    assert caught.value.hint
    assert not (made.output / ".run.lock").exists()


@pytest.mark.fault
@pytest.mark.parametrize("error", [full, MemoryError], ids=["the card's", "the computer's"])
def test_what_is_saved_stays_and_the_same_command_goes_on(
    project: Make, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Any]
) -> None:
    made = project(max_train_steps=5, checkpoint_step_interval=2)
    advance = Session.advance

    def short(self: Session, batch: Any) -> Any:
        if self.step == 3 and (raised := error()):
            raise raised
        return advance(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "advance", short)
        with pytest.raises(OutOfMemory, match=r"(ran out|out of memory) while training") as caught:
            launch(made.config, (), SilentReporter())
    assert caught.value.exit_code == 1
    assert "checkpoint-2 is intact" in (caught.value.hint or "")
    assert [path.name for _, path in list_checkpoints(made.output) if not verify(path)] == ["checkpoint-2"]
    outcome = launch(made.config, (), SilentReporter())
    assert outcome is not None
    assert outcome.trained == 3


def test_validation_pictures_are_decoded_in_tiles_and_say_so(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    tried: list[int] = []

    class Listener(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    def no_room(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        tried.append(given[0].shape[-1])
        if tried[-1] > 4:
            full()

    def loaded(self: SD3, *given: Any) -> Any:
        vae = original(self, *given)
        vae.module.decoder.register_forward_pre_hook(no_room)
        return vae

    original = SD3.load_vae
    monkeypatch.setattr(SD3, "load_vae", loaded)
    monkeypatch.setattr(latents, "_SMALLEST_TILE", 4)
    made = project(max_train_steps=1, validation_prompt="a red ball")
    launch(made.config, (), Listener())
    assert [note for note in notes if "decoding" in note] == [
        "out of memory while decoding a picture: from now on in tiles of 32 pixels, which can differ a little in tone "
        "and show their seams; smaller pictures avoid it"
    ]
    assert tried.count(8) == 2, "tried in one piece twice at the first picture, and never again"
    taken = sorted((made.output / "samples").rglob("*.png"))
    assert len(taken) == 2
    for path in taken:
        about = read_description(path) or {}
        assert about.pop("decoded") == "in tiles of 32 pixels"
        assert Planned(Shot("", "", 64, 64, 42), path, about).done, "made in tiles, but as planned: it is kept"
