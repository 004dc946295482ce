"""Adapters and scales as models to compare: each once, none called like another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from simpletune.errors import UsageError
from simpletune.results import adapter_choice
from simpletune.results import variants as subject
from simpletune.results.adapter_choice import AdapterChoice
from simpletune.results.variants import choose_adapters, number_text, variants_of

NAMES = st.sampled_from(["blue", "Blue", "red", "step-000010", "ema"])


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 3)), unique=True, max_size=5),
    st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    st.booleans(),
)
def test_every_adapter_at_every_scale_has_a_folder_and_a_title_of_its_own(
    files: list[tuple[str, int]], scales: list[float], base: bool
) -> None:
    adapters = [AdapterChoice(Path(f"folder{place}/{name}.safetensors"), name, 10) for name, place in files]
    if not adapters and not base:
        with pytest.raises(UsageError, match="neither the base nor an adapter"):
            variants_of(adapters, scales, base)
        return
    found = variants_of(adapters, scales, base)
    drawn = [(variant.adapter, variant.scale) for variant in found if variant.adapter]
    assert drawn == [(adapter, scale) for adapter in adapters for scale in dict.fromkeys(scales) if scale != 0]
    assert [variant.name for variant in found if not variant.adapter] == ["base"] * (
        base or (bool(files) and 0 in scales)
    )
    assert (
        len({variant.name.casefold() for variant in found}) == len({variant.title for variant in found}) == len(found)
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_with_all_its_digits(number: float) -> None:
    assert float(number_text(number)) == number


def test_a_scale_must_be_a_number() -> None:
    with pytest.raises(UsageError, match="--scale: inf is no strength"):
        variants_of([], [1.0, float("inf")], base=True)


def test_a_runs_final_adapter_and_its_checkpoint_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A friend's file of the same name isn't."""
    files = {
        "latest": AdapterChoice(tmp_path / "run" / "pytorch_lora_weights.safetensors", "step-000010", 10),
        "10": AdapterChoice(tmp_path / "run" / "checkpoint-10" / "pytorch_lora_weights.safetensors", "step-000010", 10),
        "friend": AdapterChoice(tmp_path / "friend" / "step-000010.safetensors", "step-000010", 10),
    }
    settings: Any = SimpleNamespace(output_dir=tmp_path / "run")
    monkeypatch.setattr(subject, "choose_adapter", lambda wish, *_: files.get(str(wish)))
    chosen = choose_adapters(["latest", "10", "friend", "friend"], settings, pytest.fail)
    assert chosen == [files["latest"], files["friend"]]
    assert choose_adapters(["none"], settings, pytest.fail) == []
    with pytest.raises(UsageError, match="--adapter none beside other adapters"):
        choose_adapters(["none", "10"], settings, pytest.fail)


def test_a_final_adapter_that_was_cut_short_is_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": np.zeros(8, np.float32)}, tmp_path / "pytorch_lora_weights.safetensors")
    monkeypatch.setattr(adapter_choice, "latest", lambda *_: tmp_path / "checkpoint-10")
    heard: list[str] = []
    assert adapter_choice.adapter_in(tmp_path, "latest", heard.append).name == "step-000010"
    assert heard == []  # it is whole, and has fewer steps
    whole = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(whole[:-1])
    assert adapter_choice.adapter_in(tmp_path, "latest", heard.append).name == "step-000010"
    assert [line for line in heard if "is damaged and passed over" in line]


def test_a_header_that_would_fill_the_memory_is_damage(tmp_path: Path) -> None:
    blanks = 17 << 20
    path = tmp_path / "adapter.safetensors"
    path.write_bytes((blanks + 2).to_bytes(8, "little") + b"{}" + b" " * blanks)
    assert "header has 17 MiB" in str(adapter_choice.damage_of(path))
    assert adapter_choice.damage_of(tmp_path / "gone.safetensors") is None
