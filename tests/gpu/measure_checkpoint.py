"""What a checkpoint costs the training: `python tests/gpu/measure_checkpoint.py FOLDER`.

A real-size SD3-Medium with random weights (int8 base, LoRA of rank 64 on the attention layers, AdamW) goes through a
run's own step, log and saver, with a checkpoint every so many steps. Said of each: how long the device stood still
between two steps, and how much of that the last checkpoint was waited for; how much longer the steps after it took in
all; seconds until it was whole; its size. FOLDER is where checkpoints go, so its disk is what is measured.

    --every 40      steps between checkpoints; more often than the disk is done with one, training waits for it
    --tiny          on a processor, small and not captured: for trying this script
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from simpletune.bench.batches import Batches
from simpletune.bench.settings import default_settings
from simpletune.config.settings import Settings
from simpletune.machine.allocator import map_in_pages
from simpletune.machine.estimate import checkpoint_bytes, text_tokens
from simpletune.models.adapters import attach_lora
from simpletune.models.load import compute_dtype
from simpletune.models.random_source import RandomFiles
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.results.run_folder import METRICS_FILE
from simpletune.trainer import saver as saving
from simpletune.trainer.assemble import assemble
from simpletune.trainer.log import StepLog
from simpletune.trainer.metrics import read_metrics
from simpletune.trainer.optimizers import parameter_dtype
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes
from simpletune.trainer.saver import Saver
from simpletune.trainer.session import Session

_WARM = 8  # steps before the first that is counted: runs of each kernel, and the capture
_MIB = 2**20


def main() -> None:
    given = arguments()
    map_in_pages()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    flavour, device = ("tiny", "cpu") if given.tiny else ("sd3-medium", "cuda")
    overrides = [f"model_flavour={flavour}", "max_train_steps=20000", f"lora_rank={given.rank}", "optimizer=adamw"]
    overrides += [f"base_model_precision={given.precision}", f"output_dir={given.folder.absolute()}"]
    overrides += ["checkpoints_total_limit=2", f"checkpoint_step_interval={given.every}"]
    overrides += [] if given.tiny else ["execution=graph", "resolution=1024"]
    settings = default_settings(device, "no" if given.tiny else "bf16", [*overrides, *given.set])
    files = RandomFiles("random", Path(), "folder", None, None, flavour, torch.device(device), compute_dtype(settings))
    found = measure(settings, files, given)
    (given.folder / "checkpoint.json").write_text(json.dumps(found, indent=1))
    print("\n".join(lines(found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a checkpoint costs the training.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=40)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--precision", default="int8-quanto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def measure(settings: Settings, files: RandomFiles, given: argparse.Namespace) -> dict[str, Any]:
    said: list[str] = []
    session, batches = session_of(settings, files, said)
    written, waited = watch(session)
    paused: list[float] = []
    with session.saver:
        for number in range(1, _WARM + given.steps + 1):
            batch = batches.step(number)
            result = session.advance(batch)
            session.log.push(session.step, batch, 0.0, result)
            if number > _WARM and (number - _WARM) % given.every == 0 and number < _WARM + given.steps:
                began = time.perf_counter()
                session.save_checkpoint()
                paused.append(time.perf_counter() - began)
        session.log.drain()
        session.save_last()
    session.log.close()
    taken = saving.contents_of(session)
    newest = given.folder / f"checkpoint-{session.step}"
    rows = read_metrics(given.folder / METRICS_FILE).steps
    session.processes.close()
    return {
        "device": torch.cuda.get_device_name() if session.processes.device.type == "cuda" else "cpu",
        "said": list(dict.fromkeys(said)),
        "numbers": sum(tensor.numel() for tensor in taken.adapter.values()),
        "tensors": sum(1 for _ in taken.tensors()),
        "bytes": sum(file.stat().st_size for file in newest.iterdir()),
        "expected_bytes": checkpoint_bytes(
            sum(tensor.numel() for tensor in taken.adapter.values()), settings.optimizer, settings.use_ema
        ),
        "pinned": session.saver._snapshots._memory.is_pinned,
        **times(rows, paused, written, waited, given.every),
    }


def session_of(settings: Settings, files: RandomFiles, said: list[str]) -> tuple[Session, Any]:
    """A session without data: what `advance` and `save_checkpoint` need of it, and batches to give it."""
    processes, family = Processes(settings), SD3()
    device = processes.device
    transformer = family.load_transformer(files, settings, device)
    attach_lora(transformer, settings, parameter_dtype(settings.optimizer))
    built = assemble(settings, family, transformer, processes, 20_000, None, said.append)
    edge = settings.resolution if device.type == "cuda" else 64
    tokens = text_tokens(settings.model_flavour, settings.tokenizer_max_length)
    nothing: Any = None
    material: Any = SimpleNamespace(files=files, manifest=SimpleNamespace(digest="none"))
    log = StepLog(settings.output_dir, device, nothing, said.append, writes=True, loss_is_scaled=False)
    log.open(0)
    session = Session(
        settings=settings,
        family=family,
        material=material,
        processes=processes,
        phases=PhaseLog(device),
        reporter=SilentReporter(),
        transformer=transformer,
        parameters=built.parameters,
        optimizer=built.optimizer,
        ema=built.ema,
        step_function=built.step,
        loader=nothing,
        held_out=(),
        log=log,
        pictures=nothing,
        total_steps=20_000,
        saver=Saver(settings.output_dir, settings.checkpoints_total_limit, device, said.append),
    )
    return session, Batches(settings, family, (edge, edge), tokens, device)


def watch(session: Session) -> tuple[list[tuple[float, float]], list[float]]:
    """Lists that get when each checkpoint began to be written and was whole, and how long each was waited for."""
    written: list[tuple[float, float]] = []
    waited: list[float] = []
    write, join = saving.write_checkpoint, session.saver._join

    def timed_write(*given: Any) -> Path:
        began = time.perf_counter()
        path = write(*given)
        written.append((began, time.perf_counter()))
        return path

    def timed_join() -> None:
        began = time.perf_counter()
        join()
        waited.append(time.perf_counter() - began)

    saving.write_checkpoint, session.saver._join = timed_write, timed_join
    return written, waited


def times(
    rows: tuple[dict[str, Any], ...],
    paused: list[float],
    written: list[tuple[float, float]],
    waited: list[float],
    every: int,
) -> dict[str, Any]:
    """Milliseconds and seconds by what they are of; steps in their order."""
    step = {row["step"]: 1000 * len(row["sigma"]) / row["samples_per_second"] for row in rows}
    pauses = {row["step"]: 1000 * row["paused"] for row in rows if row.get("paused") and row["step"] > _WARM + 1}
    quiet = statistics.median(ms for number, ms in step.items() if number > _WARM)
    late = {first: sum(step[n] - quiet for n in range(first, first + every) if n in step) for first in pauses}
    return {
        "step_ms": quiet,
        "pause_ms": [pauses[first] for first in pauses],
        "later_ms": [late[first] for first in pauses],
        "host_ms": [1000 * seconds for seconds in paused],
        "waited_ms": [1000 * seconds for seconds in waited[: len(paused)]],
        "written_s": [end - begin for begin, end in written],
        "steps_ms": [round(ms, 2) for ms in step.values()],
    }


def lines(found: dict[str, Any]) -> list[str]:
    quiet = found["step_ms"]
    said = [f"on {found['device']}: {'; '.join(found['said'])}"]
    said += [f"a LoRA of {found['numbers']:,} numbers in {found['tensors']} tensors; a step takes {quiet:.2f} ms"]
    said += [f"a checkpoint: {found['bytes'] / _MIB:.1f} MiB ({found['expected_bytes'] / _MIB:.1f} expected)"]
    said += [f"host memory is {'' if found['pinned'] else 'not '}pinned"]
    said += ["| pause, ms | in steps | of it waiting for the last | steps longer after it, ms | written after, s |"]
    said += ["|---:|---:|---:|---:|---:|"]
    for row in zip(*(found[key] for key in ("pause_ms", "waited_ms", "later_ms", "written_s")), strict=False):
        pause, waited, later, written = row
        said += [f"| {pause:.1f} | {pause / quiet:.2f} | {waited:.1f} | {later:+.1f} | {written:.2f} |"]
    return said


if __name__ == "__main__":
    main()
