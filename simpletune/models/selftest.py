"""Whether this PyTorch computes on a device what it should: one product, and a quantized layer of each precision.

`python -m simpletune.models.selftest DEVICE MIXED_PRECISION` prints a line of JSON for each: {name, ok, detail}. It is
run in a process of its own by `simpletune doctor --deep`, because a broken driver can crash the one that tries it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from simpletune.errors import SimpletuneError
from simpletune.models.quantize import NO_CHANGE, PRECISIONS, frozen_linear

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
_ROWS, _INPUTS, _OUTPUTS = 256, 1536, 1536  # tokens, and the width of SD3-Medium
# How far from the product in float64 a result may be, relative to its size: the rounding of inputs and output.
_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 2e-3}  # fp32 may be TF32 on a GPU


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    detail: str


def selftest(device: torch.device, dtype: torch.dtype) -> Iterator[Result]:
    """Compute on `device` in `dtype` and compare with float64 on the processor."""
    generator = torch.Generator().manual_seed(0)
    x_NI = torch.randn(_ROWS, _INPUTS, generator=generator).to(dtype)
    weight_OI = (torch.randn(_OUTPUTS, _INPUTS, generator=generator) / _INPUTS**0.5).to(dtype)
    for precision in PRECISIONS:
        yield _tried(precision, device, x_NI, weight_OI)


def _tried(precision: str, device: torch.device, x_NI: Tensor, weight_OI: Tensor) -> Result:
    """A failure of the device or the library is a result like any other, said in a line."""
    name = "matrix product" if precision == NO_CHANGE else precision
    try:
        error = _error(precision, device, x_NI, weight_OI)
    except SimpletuneError as failure:
        return Result(name, False, failure.message)
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as failure:
        return Result(name, False, (str(failure).strip() or type(failure).__name__).splitlines()[0])
    ok = error <= _TOLERANCE[x_NI.dtype]  # False for NaN too
    return Result(name, ok, f"{'right' if ok else 'wrong'}, relative error {error:.1e} on {device.type}")


def _error(precision: str, device: torch.device, x_NI: Tensor, weight_OI: Tensor) -> float:
    """The larger relative error of a product's output and input gradient."""
    x, weight = x_NI.to(device, copy=True).requires_grad_(), weight_OI.to(device)
    if precision == NO_CHANGE:
        used_OI = weight_OI.double()
        apply: Callable[[Tensor], Tensor] = lambda x: functional.linear(x, weight)  # noqa: E731
    else:
        layer = frozen_linear(weight, None, precision, weight.dtype)
        used_OI = layer.dequantized().cpu().double()
        apply = layer
    grad_NO = torch.ones(_ROWS, _OUTPUTS, dtype=x.dtype, device=device)
    y_NO = apply(x)
    (grad_NI,) = torch.autograd.grad(y_NO, x, grad_NO)
    wanted_NO, wanted_NI = x_NI.double() @ used_OI.T, grad_NO.cpu().double() @ used_OI
    return max(_relative(y_NO, wanted_NO), _relative(grad_NI, wanted_NI))


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().cpu().double() - wanted).norm() / wanted.norm())


def main(arguments: list[str]) -> int:
    """0 when everything computes as it should."""
    device, precision = (*arguments, "cpu", "no")[:2]
    ok = True
    for result in selftest(torch.device(device), DTYPES[precision]):
        ok = ok and result.ok
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
        sys.stdout.flush()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
