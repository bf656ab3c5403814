"""The matrix products of a linear layer and its gradient, by the library that this machine does them fastest with."""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor

# Multiply-adds below which calling oneDNN costs more than it saves. An update also makes copies for it.
LARGE = 2**20
LARGE_UPDATE = 2**21


class TorchProducts:
    """By `torch.mm` and its kin: the vendor's library on a GPU, MKL on most CPUs."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`x @ weight.T + bias`: (N, outputs) of x (N, inputs), weight (outputs, inputs), bias (outputs,)."""
        return torch.addmm(bias, x, weight.t())

    def backward(self, delta: Tensor, weight: Tensor) -> Tensor:
        """`delta @ weight`: (N, inputs) of delta (N, outputs), weight (outputs, inputs)."""
        return torch.mm(delta, weight)

    def update(self, weight: Tensor, delta: Tensor, x: Tensor) -> Tensor:
        """`weight + delta.T @ x`, (outputs, inputs), in the memory of `weight` or in new one laid out like it."""
        return weight.addmm_(delta.t(), x)


class OneDnnProducts(TorchProducts):
    """By oneDNN, where a product is large: float32 on the CPU only.

    Raises:
        AttributeError, RuntimeError: This build of torch does not offer it.
    """

    def __init__(self) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self._product_and_sum = torch.ops.mkldnn._linear_pointwise.binary
        # The operators are private to torch: trying them shows whether they are still called so.
        one = torch.ones(1, 1)
        self._product_and_sum(one, one, self._product(one, one, one[0], "none", [], ""), None, "add")

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if len(x) * weight.numel() < LARGE:
            return super().forward(x, weight, bias)
        product: Tensor = self._product(x, weight, bias, "none", [], "")
        return product

    def backward(self, delta: Tensor, weight: Tensor) -> Tensor:
        if len(delta) * weight.numel() < LARGE:
            return super().backward(delta, weight)
        product: Tensor = self._product(delta, weight.t(), None, "none", [], "")
        return product

    def update(self, weight: Tensor, delta: Tensor, x: Tensor) -> Tensor:
        if len(x) * weight.numel() < LARGE_UPDATE:
            return super().update(weight, delta, x)
        if not weight.is_contiguous():  # the sum must be read in the order in which it is written
            return self.update(weight.t(), x, delta).t()
        total: Tensor = self._product_and_sum(delta.t(), weight, x.t(), None, "add")
        return total


def products_for(tensor: Tensor) -> TorchProducts:
    """The products for tensors of this dtype on this device: decided by what the machine is, so that runs repeat."""
    onednn = _onednn() if tensor.dtype == torch.float32 and tensor.device.type == "cpu" else None
    return onednn or _TORCH


_TORCH = TorchProducts()


@functools.cache
def _onednn() -> OneDnnProducts | None:
    """oneDNN, on processors whose AVX-512 it uses and MKL does not: MKL takes those of AMD for AVX2, at half the speed."""
    if not (torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512" and _is_amd()):
        return None
    try:
        return OneDnnProducts()
    except (AttributeError, RuntimeError):
        return None


def _is_amd() -> bool:
    if platform.system() == "Linux":  # where platform.processor is empty or repeats the architecture
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    return "AuthenticAMD" in platform.processor()
