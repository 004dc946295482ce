"""What becomes of functions that can't be captured, or find no memory beside the graphs; no GPU is needed for that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from simpletune.models.graphs import WARM_UP, Graphs

X = torch.ones(2)


class Recorded:
    """Stands for a graph: it computes again what it recorded."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function

    def replay(self, inputs: Any) -> tuple[Tensor, ...]:
        return self._function(*inputs)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> tuple[Graphs, list[str]]:
    """Graphs on a machine without CUDA, and what they said. What is named `sync` can't be captured."""

    def capture(_self: Graphs, function: Callable[..., tuple[Tensor, ...]], _inputs: Any) -> Recorded:
        if function is sync:
            try:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
            finally:
                raise RuntimeError("operation failed due to a previous error")
        return Recorded(function)

    monkeypatch.setattr(Graphs, "_capture", capture)
    said: list[str] = []
    return Graphs(torch.device("cpu"), said.append), said


def sync(x: Tensor) -> tuple[Tensor]:
    """Fails while an error is being handled: that would keep the memory of the failed try."""
    assert sys.exc_info() == (None, None, None)
    return (x + 1,)


def double(x: Tensor) -> tuple[Tensor]:
    return (2 * x,)


def captured(graphs: Graphs) -> None:
    for _ in range(WARM_UP + 1):
        graphs.run("double", double, (X,))
    assert graphs.count == 1


def test_what_comes_often_is_captured_by_its_shape_and_type(graphs: tuple[Graphs, list[str]]) -> None:
    made, _ = graphs
    captured(made)
    for other in (torch.ones(3), torch.ones(2, dtype=torch.float64), None):
        made.run("double", lambda x: (X if x is None else x,), (other,))
    assert made.count == 1
    made.release()
    assert made.count == 0
    made.run("double", double, (X,))
    assert made.count == 1  # its warm-up is done


def test_what_cannot_be_captured_says_what_failed_first_and_runs(graphs: tuple[Graphs, list[str]]) -> None:
    made, said = graphs
    assert [made.run("sync", sync, (X,))[0].tolist() for _ in range(6)] == [[2.0, 2.0]] * 6
    assert said == ["execution: the sync can't be captured, it runs kernel by kernel: operation not permitted"]


class Full:
    """Finds no memory the first time it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> tuple[Tensor]:
        self.calls += 1
        if self.calls == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sync(x)


def test_graphs_make_room_for_what_is_not_captured(graphs: tuple[Graphs, list[str]]) -> None:
    made, _ = graphs
    captured(made)
    full = Full()
    assert made.run("other", full, (X,))[0].tolist() == [2.0, 2.0]
    assert (full.calls, made.count) == (2, 0)


def test_a_full_memory_is_an_error_where_nothing_can_be_given_back_or_done_again(
    graphs: tuple[Graphs, list[str]],
) -> None:
    made, _ = graphs
    with pytest.raises(torch.OutOfMemoryError):
        made.run("other", Full(), (X,))
    captured(made)
    full = Full()
    with pytest.raises(torch.OutOfMemoryError):
        made.run("update", full, (X,), again=False)
    assert full.calls == 1
