"""Each test of a GPU compiles anew."""

from __future__ import annotations

import warnings

import pytest
import torch


@pytest.fixture(autouse=True)
def compiled_anew() -> None:
    """A run has one precision and one kind of adapter. With the tenth of them in the same process the dynamo of torch
    2.11 fails at autograd functions that it has traced for others, and each of these tests passes alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler, imported here, makes some of its own
        torch._dynamo.reset()
