"""What is said of a compiler that fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simpletune.models.compiled import why_not


def test_the_reason_is_told_and_not_which_part_of_torch_had_it() -> None:
    def backend(_module: Any, _inputs: Any) -> Any:
        raise RuntimeError("there is no compiler\nto be found")

    @torch.compile(backend=backend)
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed) as caught:
        doubled(torch.ones(2))
    assert str(caught.value).startswith("backend=")
    assert why_not(caught.value) == "RuntimeError: there is no compiler"


def test_an_error_without_words_has_its_name() -> None:
    assert why_not(KeyError()) == "KeyError"
    assert why_not(RuntimeError("\n  no way\nat all")) == "no way"
