"""How fast the caches are filled: `python tests/gpu/measure_encode.py FOLDER`.

Pictures and captions a second through the program's own encoding (files read, decoded, resized, encoded, written to
the cache), against the plain loop over diffusers that does one picture, one caption at a time in the same dtype and
keeps the results in memory. FOLDER takes a model of real size with random weights (11 GB, built on first use) and the
pictures. The encoder's own time on the GPU stands apart, from CUDA events; so do other batches than the default.

Prints tables and writes FOLDER/encode.json (or --json). Under six minutes on an H100, building included. To try it
out: `--device cpu --flavour tiny --small`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_project import Bench, make_captions, make_model, make_pictures, settings_for
from PIL import Image

from simpletune.data.caches import workers
from simpletune.data.caches.encode import fill_latent_cache, fill_text_cache
from simpletune.data.caches.pipeline import read_ahead
from simpletune.data.caches.preparation import Job
from simpletune.models.family import ModelFiles
from simpletune.models.registry import get_family
from simpletune.models.runtime import quiet_libraries
from simpletune.progress import SilentReporter

BASELINE = 16  # pictures and captions that the plain loop gets: its rate doesn't depend on how many
PRECISIONS = {"bf16": "no_change", "int8": "int8-quanto"}


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the caches are filled, against a plain loop of diffusers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--flavour", default="sd3-medium")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--small", action="store_true", help="few and small, to see whether it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=330, help="what would begin after that is left out")
    given = parser.parse_args()
    count = (40, 12) if given.small else (given.pictures, given.captions)
    resolution = 64 if given.small else 1024
    bench = Bench(given.folder.absolute(), torch.device(given.device), given.flavour, resolution, *count)
    bench.folder.mkdir(parents=True, exist_ok=True)
    record = Record(given.json or bench.folder / "encode.json", time.perf_counter() + given.seconds)
    record.values["machine"] = machine(bench)
    quiet_libraries()
    model = record.measure("making model and pictures", lambda: made(bench))
    if model is not None:
        pictures(bench, model, record, (1, 2) if given.small else (1, 2, 4, 8, 16))
        for label in PRECISIONS:
            captions(bench, model, record, label, (1, 4) if given.small else (1, 4, 8, 16, 32, 64))
    record.show()


@dataclass
class Record:
    """What was measured so far; written after each measurement, so that a run that is cut short leaves what it has."""

    path: Path
    deadline: float
    values: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gives; None, with the reason told, when it fails or would begin too late."""
        began, result = time.perf_counter(), None
        if began > self.deadline:
            self.values.setdefault("left out", []).append(name)
            print(f"{name}: left out, as time is up", flush=True)
            return None
        try:
            result = work()
        except Exception:
            self.values.setdefault("failed", {})[name] = traceback.format_exc()
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
        self.values.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        if isinstance(result, dict):
            self.rates[name] = result
        self.path.write_text(json.dumps({**self.values, "rates": self.rates}, indent=1))
        return result

    def show(self) -> None:
        columns = ("rate", "times the plain loop", "encoder alone", "peak GiB")
        print(f"\n| what | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
        for name, row in self.rates.items():
            cells = [f"{row[column]:.2f}" if column in row else "-" for column in columns]
            print(f"| {name} | {' | '.join(cells)} |")
        print(f"\nrates are pictures or captions a second; all of it: {self.path}", flush=True)


def made(bench: Bench) -> ModelFiles:
    make_pictures(bench)
    return make_model(bench)


def machine(bench: Bench) -> dict[str, Any]:
    on_gpu = bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if on_gpu else "processor"
    return {"device": name, "torch": torch.__version__, "cores": workers.processors(), "cpus": os.cpu_count()}


def pictures(bench: Bench, model: ModelFiles, record: Record, batches: Sequence[int]) -> None:
    """Preparing alone, the VAE by batch, the plain loop, and ours at the default batch and at the fastest one."""
    for name in bench.sizes:
        for way in ("threads", "processes"):
            record.measure(f"preparing, {name}, {way}", lambda name=name, way=way: preparing(bench, name, way))
    best = fastest_vae(bench, model, record, batches)
    clear(bench)
    plain = plain_pictures(bench, model)
    for name in bench.sizes:
        base = record.measure(f"plain loop, {name}", lambda name=name: plain(name))
        for batch in dict.fromkeys((settings_for(bench).vae_batch_size, best)):
            what = f"ours, {name}, vae_batch_size {batch}"
            ours = record.measure(what, lambda name=name, batch=batch: our_pictures(bench, model, name, batch))
            if base and ours:
                ours["times the plain loop"] = ours["rate"] / base["rate"]


def fastest_vae(bench: Bench, model: ModelFiles, record: Record, batches: Sequence[int]) -> int:
    """Which batch the VAE is fastest with; a larger one must be worth its memory."""
    vae = Kept(bench, model).load_vae(model, settings_for(bench), bench.device)
    best, rate = 1, 0.0
    for batch in batches:
        found = record.measure(f"VAE alone, {batch} at a time", lambda batch=batch: vae_alone(bench, vae, batch))
        if found is not None and found["encoder alone"] > 1.03 * rate:
            best, rate = batch, found["encoder alone"]
    return best


def preparing(bench: Bench, name: str, way: str) -> dict[str, Any]:
    """Reading, decoding and resizing alone, in threads or in processes; their start is left out."""
    samples, sources = bench.samples(settings_for(bench), name)
    cache = str(bench.folder / "no-cache")
    jobs = [Job(name, s.name, (s.width, s.height), s.placements, cache, "vae", stamped=False) for s in samples]
    decides, workers.in_processes = workers.in_processes, lambda jobs: way == "processes"
    try:
        with workers.preparing(jobs, sources) as (pool, prepare):
            ahead = 2 * workers.processors()
            list(read_ahead(pool, prepare, jobs[:ahead], ahead))
            began = time.perf_counter()
            list(read_ahead(pool, prepare, jobs, ahead))
            return {"rate": len(jobs) / (time.perf_counter() - began)}
    finally:
        workers.in_processes = decides


def vae_alone(bench: Bench, vae: Any, batch: int) -> dict[str, Any]:
    edge = bench.resolution
    pixels = np.random.default_rng(0).integers(0, 255, (batch, edge, edge, 3), np.uint8)
    return alone(bench, lambda: vae.encode(pixels, [f"{index}" for index in range(batch)]), batch)


def our_pictures(bench: Bench, model: ModelFiles, name: str, batch: int) -> dict[str, Any]:
    """The program's own encoding of all pictures of a size, into an empty cache; loading the VAE is left out."""
    settings, cache = settings_for(bench, vae_batch_size=batch), bench.folder / "cache-vae"
    samples, sources = bench.samples(settings, name)
    family = Kept(bench, model)
    family.load_vae(model, settings, bench.device)

    def fill(samples: Sequence[Any]) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        reporter = SilentReporter()
        fill_latent_cache(samples, sources, {name: cache}, family, model, settings, bench.device, reporter)

    return filled(bench, family, fill, samples, batch)


def plain_pictures(bench: Bench, model: ModelFiles) -> Callable[[str], dict[str, Any]]:
    from diffusers import AutoencoderKL
    from diffusers.image_processor import VaeImageProcessor

    def run(name: str) -> dict[str, Any]:
        vae = AutoencoderKL.from_pretrained(model.root, subfolder="vae", torch_dtype=bench.dtype).to(bench.device)
        processor, config = VaeImageProcessor(), vae.config

        @torch.no_grad()
        def encode(path: Path) -> torch.Tensor:
            image = Image.open(path).convert("RGB")
            scale = bench.resolution / min(image.size)
            width, height = round(image.width * scale), round(image.height * scale)
            left, top = (width - bench.resolution) // 2, (height - bench.resolution) // 2
            box = left, top, left + bench.resolution, top + bench.resolution
            image = image.resize((width, height), Image.Resampling.LANCZOS).crop(box)
            pixels = processor.preprocess(image).to(bench.device, bench.dtype)
            latent = vae.encode(pixels).latent_dist.sample()
            return ((latent - config.shift_factor) * config.scaling_factor).cpu()

        return one_at_a_time(bench, encode, sorted((bench.folder / name).iterdir())[:BASELINE])

    return run


def captions(bench: Bench, model: ModelFiles, record: Record, label: str, batches: Sequence[int]) -> None:
    """The encoders by batch, ours at the default batch and at the fastest one, and the plain loop; T5 as `label`."""
    key = {"text_encoder_3_precision": PRECISIONS[label]}
    family = record.measure(f"loading the encoders, T5 in {label}", lambda: loaded(bench, model, key))
    if family is not None:
        best, rate, every = 1, 0.0, make_captions(bench.captions)
        for batch in batches:
            what = f"encoders alone, T5 in {label}, {batch} at a time"
            found = record.measure(what, lambda batch=batch: text_alone(bench, family, every[:batch]))
            if found is not None and found["encoder alone"] > 1.03 * rate:
                best, rate = batch, found["encoder alone"]
        ours = {}
        for batch in dict.fromkeys((settings_for(bench).text_encoder_batch_size, best)):
            what = f"ours, T5 in {label}, text_encoder_batch_size {batch}"
            keys = key | {"text_encoder_batch_size": batch}
            ours[what] = record.measure(what, lambda keys=keys: our_captions(bench, model, family, keys))
        family.drop()
        clear(bench)
        base = record.measure(f"plain loop, T5 in {label}", lambda: plain_captions(bench, model, label))
        for row in ours.values():
            if base and row:
                row["times the plain loop"] = row["rate"] / base["rate"]
    clear(bench)


def loaded(bench: Bench, model: ModelFiles, key: dict[str, Any]) -> Kept:
    family = Kept(bench, model)
    family.load_text_encoders(model, settings_for(bench, **key), bench.device)
    return family


def text_alone(bench: Bench, family: Kept, batch: Sequence[str]) -> dict[str, Any]:
    return alone(bench, lambda: family.encoders.encode(batch), len(batch))


def our_captions(bench: Bench, model: ModelFiles, family: Kept, keys: dict[str, Any]) -> dict[str, Any]:
    """The program's own encoding into an empty cache; loading the encoders is left out."""
    settings, cache = settings_for(bench, **keys), bench.folder / "cache-text"

    def fill(captions: Sequence[str]) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        fill_text_cache(captions, cache, family, model, settings, bench.device, SilentReporter())

    return filled(bench, family, fill, make_captions(bench.captions), settings.text_encoder_batch_size)


def plain_captions(bench: Bench, model: ModelFiles, label: str) -> dict[str, Any]:
    from diffusers import StableDiffusion3Pipeline

    absent = {"transformer": None, "vae": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(model.root, torch_dtype=bench.dtype, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if label == "int8":
        from optimum.quanto import freeze, qint8, quantize

        pipeline.text_encoder_3.to(bench.device)
        quantize(pipeline.text_encoder_3, weights=qint8)
        freeze(pipeline.text_encoder_3)
    pipeline.to(bench.device)
    tokens = settings_for(bench).tokenizer_max_length

    @torch.no_grad()
    def encode(caption: str) -> Any:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            caption, caption, caption, do_classifier_free_guidance=False, max_sequence_length=tokens
        )
        return embeds.cpu(), pooled.cpu()

    return one_at_a_time(bench, encode, make_captions(BASELINE))


def one_at_a_time(bench: Bench, encode: Callable[[Any], Any], items: Sequence[Any]) -> dict[str, Any]:
    """The plain loop's rate, after two that don't count."""
    for item in items[:2]:
        encode(item)
    reset_peak(bench)
    began = time.perf_counter()
    for item in items:
        encode(item)
    seconds = time.perf_counter() - began
    return {"rate": len(items) / seconds, "peak GiB": peak(bench)}


def filled(
    bench: Bench, family: Kept, fill: Callable[[Sequence[Any]], None], items: Sequence[Any], batch: int
) -> dict[str, Any]:
    """Our rate over all items, after a short fill that doesn't count, and the encoder's own on the GPU."""
    fill(items[: 2 * batch])
    family.timed.clear()
    reset_peak(bench)
    began = time.perf_counter()
    fill(items)
    seconds = time.perf_counter() - began
    return {"rate": len(items) / seconds, "encoder alone": family.rate(), "peak GiB": peak(bench)}


def alone(bench: Bench, encode: Callable[[], Any], count: int) -> dict[str, Any]:
    """The encoder's rate on the GPU, batch after batch: three times, after one that doesn't count."""
    encode()
    reset_peak(bench)
    clock = Clock(bench)
    for _ in range(3):
        clock.time(encode, count)
    return {"encoder alone": clock.rate(), "peak GiB": peak(bench)}


class Clock:
    """Times calls by CUDA events, or by the wall clock where there is no GPU."""

    def __init__(self, bench: Bench) -> None:
        self.on_gpu = bench.device.type == "cuda"
        self.spans: list[tuple[int, Any, Any]] = []

    def time(self, work: Callable[[], Any], count: int) -> Any:
        began = self._now()
        result = work()
        self.spans.append((count, began, self._now()))
        return result

    def clear(self) -> None:
        self.spans.clear()

    def rate(self) -> float:
        """Items a second of the calls' own time."""
        if self.on_gpu:
            torch.cuda.synchronize()
        spent = sum(a.elapsed_time(b) / 1000 if self.on_gpu else b - a for _, a, b in self.spans)
        return sum(count for count, _, _ in self.spans) / spent

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Kept:
    """The program's family, with models that stay loaded and whose encoding is timed."""

    def __init__(self, bench: Bench, model: ModelFiles) -> None:
        self._family = get_family("sd3")
        self.timed = Clock(bench)
        self.vae: Any = None
        self.encoders: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def load_vae(self, *given: Any) -> Any:
        self.vae = self.vae or self._family.load_vae(*given)
        return Timed(self.vae, self.timed)

    def load_text_encoders(self, *given: Any) -> Any:
        self.encoders = self.encoders or self._family.load_text_encoders(*given)
        return Timed(self.encoders, self.timed)

    def drop(self) -> None:
        self.vae = self.encoders = None

    def rate(self) -> float:
        return self.timed.rate()


@dataclass(frozen=True)
class Timed:
    """An encoder, each of whose calls is timed."""

    encoder: Any
    clock: Clock

    def encode(self, items: Any, *more: Any) -> Any:
        return self.clock.time(lambda: self.encoder.encode(items, *more), len(items))

    def encode_batches(self, batches: Any) -> Any:
        return map(self.encode, batches)


def reset_peak(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak(bench: Bench) -> float:
    """The most that was allocated on the device, in GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if bench.device.type == "cuda" else 0.0


def clear(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
