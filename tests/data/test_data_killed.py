"""Killed at any moment of caching and started again, a run ends with the caches of one that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from data_helpers import Told, colours, image_set, run_settings, scan, sources
from test_data_tiny import MODEL

from simpletune.data.caches import workers
from simpletune.data.caches.cache import TensorCache
from simpletune.data.caches.encode import fill_latent_cache, fill_text_cache
from simpletune.data.caches.entries import listed
from simpletune.models.registry import get_family

PICTURES, KILLS = 34, 20


def fill(folder: Path, cache: Path) -> None:
    """Both caches of a run on the tiny model, its pictures prepared in processes."""
    torch.set_num_threads(1)
    family, settings = get_family("sd3"), run_settings(**MODEL)
    files, one, cpu = family.locate(settings), image_set(folder, horizontal_flip=True), torch.device("cpu")
    samples = scan(one, 16, 1).samples
    captions = [f"{text} {number}" for sample in samples for text in sample.captions for number in range(2)]
    fill_text_cache(captions, cache / "text", family, files, settings, cpu, Told())
    fill_latent_cache(samples, sources(one), {one.id: cache / "vae"}, family, files, settings, cpu, Told())


def content(cache: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for folder in (cache / "text", cache / "vae"):
        for key in listed(folder):
            tensors = TensorCache(folder).get(key)
            assert tensors is not None, f"{key} is damaged"
            found[key] = tensors
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that have torch loaded")
def test_killed_at_random_moments(monkeypatch, save, folder, tmp_path, tiny_model):
    monkeypatch.setattr(workers, "in_processes", lambda jobs: True)
    for number in range(PICTURES):
        save(f"{number}.png", colours(128 if number % 3 else 96, 96, 5 * number))
    fill(folder, tmp_path / "whole")  # imports what the forked ones will have already: they are timed by the next
    began = time.perf_counter()
    fill(folder, tmp_path / "timed")
    seconds, expected = time.perf_counter() - began, content(tmp_path / "whole")
    assert len(expected) == 4 * PICTURES
    random.seed(0)
    partial = 0
    for kill in range(KILLS):
        cache = tmp_path / f"killed {kill}"
        process = multiprocessing.get_context("fork").Process(target=fill, args=(folder, cache))
        process.start()
        time.sleep(random.uniform(0.02, 0.95) * seconds)
        helpers = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
        process.kill()
        process.join()
        _, alive = psutil.wait_procs(helpers, timeout=20)
        assert alive == []
        partial += 0 < len(content(cache)) < len(expected)
        fill(folder, cache)
        found = content(cache)
        assert found.keys() == expected.keys()
        for key, tensors in expected.items():
            assert all(found[key][name].equal(tensor) for name, tensor in tensors.items()), key
    assert partial > KILLS // 2
