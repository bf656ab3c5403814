"""Every kind of product gives the same numbers to rounding, and the machine alone decides which kind is used."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lit_mnist import products
from lit_mnist.engines.products import OneDnnProducts, TorchProducts, products_for


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    """The choice is made once per process: forget it, now and afterwards."""
    products._onednn.cache_clear()
    yield
    products._onednn.cache_clear()


def onednn() -> OneDnnProducts:
    try:
        return OneDnnProducts()
    except (AttributeError, RuntimeError):
        pytest.skip("this build of torch does not offer oneDNN's products")


def posing_as(monkeypatch: pytest.MonkeyPatch, capability: str, vendor: str) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "_is_amd", lambda: vendor == "AuthenticAMD")


@pytest.mark.parametrize("by_input", [False, True], ids=["row per output", "row per input"])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs"), [(8, 20, 10), (8, 512, 256), (33, 512, 256), (128, 601, 512), (1024, 256, 10)]
)
def test_onednn_products_equal_those_of_float64(count: int, inputs: int, outputs: int, by_input: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    x, delta = torch.randn(count, inputs, generator=draw), torch.randn(count, outputs, generator=draw)
    weight, bias = torch.randn(outputs, inputs, generator=draw), torch.randn(outputs, generator=draw)
    if by_input:
        weight = weight.t().contiguous().t()
    chosen, exact = onednn(), TorchProducts()
    for ours, theirs in [
        (chosen.forward(x, weight, bias), exact.forward(x.double(), weight.double(), bias.double())),
        (chosen.backward(delta, weight), exact.backward(delta.double(), weight.double())),
        (chosen.update(weight.clone(), delta, x), exact.update(weight.double(), delta.double(), x.double())),
    ]:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-4)  # sums of up to 1024 terms near 1


def test_an_update_keeps_the_order_of_the_weight_in_memory() -> None:
    weight = torch.zeros(512, 256).t()
    assert onednn().update(weight, torch.ones(32, 256), torch.ones(32, 512)).stride() == weight.stride()


@pytest.mark.parametrize(
    ("capability", "vendor", "chosen"),
    [
        ("AVX512", "AuthenticAMD", OneDnnProducts),
        ("AVX512", "GenuineIntel", TorchProducts),
        ("AVX2", "AuthenticAMD", TorchProducts),
    ],
)
def test_onednn_is_for_avx512_that_mkl_leaves_unused(
    fresh_choice: None, monkeypatch: pytest.MonkeyPatch, capability: str, vendor: str, chosen: type[TorchProducts]
) -> None:
    onednn()
    posing_as(monkeypatch, capability, vendor)
    assert type(products_for(torch.ones(1))) is chosen
    assert type(products_for(torch.ones(1, dtype=torch.float64))) is TorchProducts
    assert type(products_for(torch.ones(1, device="meta"))) is TorchProducts


@pytest.mark.parametrize("missing", [AttributeError, RuntimeError])
def test_a_torch_without_the_private_operators_does_its_own_products(
    fresh_choice: None, monkeypatch: pytest.MonkeyPatch, missing: type[Exception]
) -> None:
    class Gone:
        @property
        def _linear_pointwise(self) -> object:
            raise missing("no such operator")

    posing_as(monkeypatch, "AVX512", "AuthenticAMD")
    monkeypatch.setattr(torch.ops, "mkldnn", Gone())
    assert type(products_for(torch.ones(1))) is TorchProducts


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux only")
def test_the_vendor_is_read_from_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products._is_amd() == ("AuthenticAMD" in Path("/proc/cpuinfo").read_text())
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD")
    assert products._is_amd()
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel")
    assert not products._is_amd()
