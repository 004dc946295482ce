"""A card that is really full: batches shrink, a picture is decoded in tiles, and another process is noticed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from simpletune.config.builtin import tiny_folder
from simpletune.data.caches.pipeline import Halving
from simpletune.machine.estimate import GIB
from simpletune.models.family import ModelFiles
from simpletune.models.latents import SD3LatentCoder
from simpletune.models.memory import release
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.trainer import short_memory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

CUDA = torch.device("cuda")
EDGE = 1024
HOLD = (
    "import sys, torch; held = torch.empty(4 << 30, dtype=torch.uint8, device='cuda'); "
    "torch.cuda.synchronize(); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def vae() -> SD3LatentCoder:
    settings: Any = SimpleNamespace(mixed_precision="no")
    return SD3().load_vae(ModelFiles("tiny", tiny_folder(), "folder", None, None), settings, CUDA)


@pytest.fixture
def little_memory(vae: SD3LatentCoder) -> Iterator[None]:
    """2 GiB for this process, which is some pictures of the tiny VAE."""
    release(CUDA)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(2 * GIB / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    release(CUDA)


def pictures(count: int) -> np.ndarray[Any, Any]:
    """Wide stripes, shifted from one to the next: uint8 (count, EDGE, EDGE, 3)."""
    along = np.arange(EDGE)[None] // 64 + np.arange(count)[:, None]
    rows = np.stack([along * 50 % 256, along * 80 % 256, along * 110 % 256], axis=-1).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rows[:, None], (count, EDGE, EDGE, 3)))


@pytest.mark.usefixtures("little_memory")
def test_a_batch_shrinks_until_it_fits(vae: SD3LatentCoder) -> None:
    notes: list[str] = []

    class Listener(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    pixels, found = pictures(16), {}
    batches = Halving(16, "vae_batch_size", CUDA, Listener())
    for batch, latents in batches.run(
        range(16), lambda which: vae.encode(pixels[list(which)], list(map(str, which))), 16
    ):
        found.update({number: latents[place].cpu() for place, number in enumerate(batch)})
    assert len(notes) == 1
    assert notes[0].startswith("out of memory with a batch of 16: going on with ")
    assert torch.cuda.max_memory_reserved() <= 2 * GIB
    assert sorted(found) == list(range(16))
    for number in (0, 15):
        alone = vae.encode(pixels[number : number + 1], [str(number)])[0].cpu()
        torch.testing.assert_close(found[number], alone, rtol=0.02, atol=0.02)  # TF32 in some batches' convolutions


@pytest.mark.usefixtures("little_memory")
def test_a_picture_is_decoded_in_tiles(vae: SD3LatentCoder) -> None:
    latents = torch.randn(1, 16, 3 * EDGE // 8, 3 * EDGE // 8, generator=torch.Generator().manual_seed(0))
    assert vae.decode(latents).shape == (1, 3 * EDGE, 3 * EDGE, 3)
    assert vae.tile is not None
    assert torch.cuda.max_memory_reserved() <= 2 * GIB


def test_another_process_is_noticed_with_its_size() -> None:
    torch.empty(1, device=CUDA)
    settings: Any = SimpleNamespace(device_memory_gb=None)
    usable_before, before = short_memory._usable_and_others(settings, CUDA)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        usable, others = short_memory._usable_and_others(settings, CUDA)
        other.communicate()
    assert 3.5 * GIB < others - before < 5.5 * GIB
    assert usable_before is not None
    assert usable is not None
    assert 3.5 * GIB < usable_before - usable < 5.5 * GIB
