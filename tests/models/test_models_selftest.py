"""The products that doctor --deep computes: right ones pass, wrong ones don't."""

import json

import pytest
import torch

from simpletune.models import selftest as module
from simpletune.models.quantize import PRECISIONS
from simpletune.models.selftest import main, selftest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name in ("_ROWS", "_INPUTS", "_OUTPUTS"):
        monkeypatch.setattr(module, name, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_computes_on_a_processor(dtype):
    results = list(selftest(CPU, dtype))
    assert [result.name for result in results] == ["matrix product", *PRECISIONS[1:]]
    assert all(result.ok for result in results), results


def test_wrong_numbers_are_found(monkeypatch):
    layer = module.frozen_linear
    monkeypatch.setattr(module, "frozen_linear", lambda *args: _Wrong(layer(*args)))
    assert [result.ok for result in selftest(CPU, torch.float32)] == [True, False, False, False, False]


class _Wrong:
    def __init__(self, layer):
        self.dequantized, self._layer = layer.dequantized, layer

    def __call__(self, x):
        return self._layer(x) * 1.1


def test_numbers_that_are_not_finite_are_found(monkeypatch):
    monkeypatch.setattr(module.functional, "linear", lambda x, weight, bias=None: x * float("nan"))
    assert not next(iter(selftest(CPU, torch.float32))).ok


def test_a_device_that_refuses_is_a_result():
    results = list(selftest(torch.device("meta"), torch.float32))
    assert [result.ok for result in results] == [False] * 5
    assert all(result.detail for result in results)


def test_a_line_of_json_each(capsys):
    assert main(["cpu", "no"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines] == [{"name", "ok", "detail"}] * 5
