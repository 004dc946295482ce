"""Signals in every phase of a run: it ends with the right code, says how to go on, and going on loses nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from project import QUICK, Project, make_project
from safetensors.torch import load_file

from simpletune.data.caches.cache import TensorCache
from simpletune.errors import HungUp, Interrupted, SimpletuneError, Terminated
from simpletune.models.latents import SD3LatentCoder
from simpletune.models.sd3 import SD3
from simpletune.models.sd3_sampling import SD3Sampler
from simpletune.progress import SilentReporter
from simpletune.results.run_folder import LOCK_FILE
from simpletune.trainer.interrupt import HANG_UP
from simpletune.trainer.launch import launch
from simpletune.trainer.session import Session

Make = Callable[..., Project]
KEYS: dict[str, Any] = {
    "max_train_steps": 4,
    "num_eval_images": 1,
    "validation_prompt": "a red ball",
    "validation_step_interval": 2,
    "lr_scheduler": "constant",
    "caption_dropout_probability": 0.5,
    "use_ema": True,
}


def train(made: Project) -> None:
    launch(made.config, [], SilentReporter())


class Stopping:
    """Sends this process a signal when a function is called for the nth time, and counts the calls."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.calls = 0

    def at(self, owner: Any, name: str, number: int, nth: int = 1) -> Stopping:
        original = getattr(owner, name)

        def stopping(*arguments: Any, **keys: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                os.kill(os.getpid(), number)
            return original(*arguments, **keys)

        self._patch.setattr(owner, name, stopping)
        return self


def stopped(made: Project, owner: Any, name: str, number: int, nth: int = 1) -> tuple[SimpletuneError, int]:
    """The error that ends a run which gets a signal in the nth call of that function, and how often it was called."""
    with pytest.MonkeyPatch.context() as patch:
        stopping = Stopping(patch).at(owner, name, number, nth)
        with pytest.raises((HungUp, Interrupted, Terminated)) as caught:
            train(made)
    assert caught.value.exit_code == 128 + number
    assert "same command" in (caught.value.hint or "")
    assert not list(made.folder.rglob("*.tmp*")), "something half-written was left"
    assert not (made.output / LOCK_FILE).exists()
    return caught.value, stopping.calls


def entries(made: Project) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in made.folder.glob("cache/**/*.safetensors")}


def test_a_run_stopped_in_every_phase_is_the_one_left_alone(project: Make, tmp_path: Path) -> None:
    import simpletune.data.preflight
    from simpletune.trainer import outputs

    made = project(**KEYS)
    error, _ = stopped(made, simpletune.data.preflight, "scan", signal.SIGTERM)
    assert error.message == "stopped before anything was done"
    assert not made.output.exists()
    error, _ = stopped(made, SD3, "load_text_encoders", signal.SIGINT)
    assert error.message == "stopped while encoding captions; what is encoded is kept"
    error, _ = stopped(made, SD3LatentCoder, "encode", signal.SIGTERM, nth=2)
    assert error.message == "stopped while encoding pictures; what is encoded is kept"
    before = entries(made)
    assert before
    error, _ = stopped(made, SD3, "load_transformer", HANG_UP)
    assert error.message == "stopped while loading the model; nothing is lost"
    assert {path: time for path, time in entries(made).items() if path in before} == before, "encoded once more"

    steps = QUICK["validation_num_inference_steps"]
    error, calls = stopped(made, SD3Sampler, "_step", signal.SIGINT, nth=steps + 1)  # of the picture at step 2
    assert error.message == "stopped after step 2 of 4; the state is saved"
    assert calls == steps + 1, "it sampled on"
    assert not list((made.output / "samples/step-000002").glob("*")), "what was cut off counted as done"
    error, _ = stopped(made, Session, "advance", signal.SIGTERM)
    assert error.message == "stopped after step 3 of 4; the state is saved"
    assert list((made.output / "samples/step-000002").glob("*.png")), "the cut-off validation wasn't done again"
    error, _ = stopped(made, outputs, "plots", HANG_UP)
    assert error.message.startswith("stopped after the last step; all 4 steps are saved")

    train(made)
    alone = make_project(tmp_path / "alone", **KEYS)
    train(alone)
    assert made.losses() == alone.losses()
    assert made.metrics().validations == alone.metrics().validations
    left, wanted = (load_file(one.output / "ema/pytorch_lora_weights.safetensors") for one in (made, alone))
    assert all(left[key].equal(tensor) for key, tensor in wanted.items())
    for name in ("gallery.png", "samples/step-000002/prompt-64x64-42.png"):
        assert (made.output / name).read_bytes() == (alone.output / name).read_bytes(), name


def test_an_entry_under_way_is_written_whole(project: Make) -> None:
    """The signal comes while a thread writes; the main thread unwinds, and that one comes to its end."""
    made = project(**KEYS)
    put = TensorCache.put
    stopped(made, TensorCache, "put", signal.SIGTERM)
    for folder in (made.folder / "cache").glob("*"):
        cache = TensorCache(folder)
        for path in folder.rglob("*.safetensors"):
            assert cache.contains(path.stem), "half-written"
    assert TensorCache.put is put


def test_a_stop_while_a_finished_run_is_summed_up_says_that_it_is_saved(project: Make) -> None:
    made = project(max_train_steps=1)
    with pytest.raises(Terminated, match="stopped after the last step; all steps are saved"):
        launch(made.folder / "config.json", (), SilentReporter(), say=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert (made.output / "finished.json").is_file()


@pytest.mark.fault
def test_an_upload_cut_off_says_that_the_run_is_whole(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import simpletune.trainer.launch as module

    made = project(max_train_steps=1)
    Stopping(monkeypatch).at(module, "share", signal.SIGTERM)
    with pytest.raises(Terminated, match="is whole, but the model card was not written"):
        train(made)
    assert (made.output / "pytorch_lora_weights.safetensors").exists()


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 180
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_while_a_process_of_its_own_encodes(project: Make) -> None:
    made = project(max_train_steps=1)
    for number in range(600):
        Image.new("RGB", (64, 64), (number % 256, number // 256, 9)).save(made.folder / f"pictures/more-{number}.png")
        (made.folder / f"pictures/more-{number}.txt").write_text("a field")
    process = made.command("train")
    wait_for(lambda: len(list((made.folder / "cache/vae").rglob("*.safetensors"))) > 5, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "error: stopped while encoding" in said
    assert "Traceback" not in said
    assert not (made.output / LOCK_FILE).exists()
    assert not list(made.folder.rglob("*.tmp*"))


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_with_nothing_half_written(project: Make) -> None:
    made = project(max_train_steps=100_000, checkpoint_step_interval=1, validation_prompt=None)
    process = made.command("train")
    wait_for(lambda: len(list(made.output.glob("checkpoint-*"))) > 2, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # the system may well make one of two that are this close
    time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert time.monotonic() - began < 5
    assert not list(made.output.glob(".checkpoint*"))
    assert not (made.output / LOCK_FILE).exists()
    assert "damaged" not in made.command("train", "--set", "max_train_steps=1").communicate(timeout=120)[0]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="closed terminals send no signal here")
def test_a_closed_terminal_saves(project: Make) -> None:
    """The live display writes into a terminal that is gone by then, and so does the error at the end."""
    import pty

    made = project(max_train_steps=100_000)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(made.folder)
        os.environ |= {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-m", "simpletune", "train"])
    path, end = made.output / "metrics.jsonl", time.monotonic() + 180
    os.set_blocking(terminal, False)
    while not (path.exists() and path.read_text().count('"kind": "step"') > 3):
        assert time.monotonic() < end
        with suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        time.sleep(0.02)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()


@pytest.mark.slow
def test_a_reader_of_the_log_that_ends_first_costs_nothing(project: Make) -> None:
    """Ctrl-C with `simpletune train 2>&1 | tee log` ends tee at once."""
    made = project(max_train_steps=100_000)
    process = made.command("train")
    path = made.output / "metrics.jsonl"
    wait_for(lambda: path.exists() and path.read_text().count('"kind": "step"') > 3, process)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_and_a_killed_ones_is_taken_over(project: Make) -> None:
    made = project(max_train_steps=100_000, checkpoint_step_interval=5)
    first = made.command("train", "config.json")
    wait_for(lambda: (made.output / "checkpoint-5").is_dir(), first)
    second = made.command("train")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 2, said
    assert re.search(rf"in use by another run \(process {first.pid} on .*, since 20.*train\s+config.json\)", said), said
    assert "Wait for it to end or stop it" in said
    first.kill()
    first.communicate()
    third = made.command("train", "--set", "max_train_steps=6")
    said, _ = third.communicate(timeout=120)
    assert "continuing from checkpoint-" in said, said
