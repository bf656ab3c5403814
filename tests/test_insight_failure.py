"""Failures explained and branch tests, on small real runs that fail within seconds."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_mnist.datasets.files import load
from lit_mnist.datasets.loaders import Batch
from lit_mnist.insight.branches import Branch, branch_test
from lit_mnist.insight.curvature import Hessian
from lit_mnist.insight.failure import HORIZONS, TWINS, Failure, Rerun, Reruns, find_failure, rerun_changed
from lit_mnist.insight.replay import Window, failure_index, moved
from lit_mnist.insight.sentences import what_limits
from lit_mnist.mlp import MLP

CHANCE = math.log(10)
LR = 0.1


def cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


def bits(module: nn.Module) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in module.parameters()]


@pytest.fixture(scope="module")
def data() -> Batch:
    images, labels = load("MNIST").train
    return images[:4096].unsqueeze(1).float() / 255, labels[:4096]


@pytest.fixture(scope="module")
def window(data: Batch) -> Window:
    """Four epochs of 128 mini-batches."""
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(4096, generator=generator) for _ in range(4)]
    return Window(cross_entropy, *data, torch.cat(orders).split(32), LR)


@pytest.fixture(scope="module")
def network(window: Window) -> nn.Module:
    """A network after an epoch at a learning rate at which it learns."""
    torch.manual_seed(1)
    module = MLP((28, 28), 10, (64, 32))
    window.train(module, 0, 128)
    return module


@pytest.fixture(scope="module")
def fatal(window: Window) -> Window:
    """The steps after it, of which the 41st meets an image 1,000 times too bright, with a wrong label."""
    chosen = [indices.clone() for indices in window.chosen[128:400]]
    images = torch.cat([window.images, 1000 * window.images[chosen[40][7:8]]])
    labels = torch.cat([window.labels, (window.labels[chosen[40][7:8]] + 1) % 10])
    chosen[40][7] = 4096
    return replace(window, images=images, labels=labels, chosen=chosen)


@pytest.fixture(scope="module")
def failure(network: nn.Module, fatal: Window) -> Failure:
    before = bits(network)
    found = find_failure(network, fatal, fatal.train(copy.deepcopy(network)), CHANCE)
    assert bits(network) == before
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reruns(network: nn.Module, failure: Failure) -> Reruns:
    before = bits(network)
    found = rerun_changed(network, failure)
    assert bits(network) == before
    return found


def test_sgd_has_the_bits_of_a_plain_loop_and_measuring_changes_none(network: nn.Module, window: Window) -> None:
    plain, replayed, measured = (copy.deepcopy(network) for _ in range(3))
    losses, optimizer = [], torch.optim.SGD(plain.parameters(), lr=LR)
    for images, labels in map(window.batch, range(20)):
        loss = F.cross_entropy(plain(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert window.train(replayed, 0, 20) == losses
    steps = window.measure(measured, 0, 20)
    assert [step.loss for step in steps] == losses
    assert bits(plain) == bits(replayed) == bits(measured)
    assert [step.index for step in steps] == list(range(20))


def test_a_capped_step_is_as_long_as_the_cap_allows(network: nn.Module, window: Window) -> None:
    module = copy.deepcopy(network)
    window.train(module, 0, 1, max_norm=0.01)
    moves = [(a - b).square().sum() for a, b in zip(network.parameters(), module.parameters(), strict=True)]
    assert torch.stack(moves).sum().sqrt().item() == pytest.approx(0.01 * LR, rel=1e-3)


def test_a_step_is_measured_as_its_own_gradient_and_loss_say(network: nn.Module, window: Window) -> None:
    (step,) = replace(window, images=window.images.double(), lr=1e-4).measure(copy.deepcopy(network).double(), 0, 1)
    images, labels = window.batch(0)
    hessian = Hessian(network, cross_entropy, images, labels)
    assert step.gradient_norm == pytest.approx(hessian.gradient.norm().item(), rel=1e-4)
    assert step.curvature == pytest.approx(hessian.curvature_along(hessian.gradient), rel=1e-3)
    second_order = 1e-4 * step.gradient_norm**2 * (1e-4 * step.curvature / 2 - 1)
    assert step.change == pytest.approx(second_order, rel=1e-3)
    assert step.image_shares.sum().item() == pytest.approx(1)
    assert len(step.image_shares) == 32
    alone = [Hessian(network, cross_entropy, images[i : i + 1], labels[i : i + 1]).gradient.norm() for i in range(32)]
    assert torch.allclose(step.image_shares.float(), torch.stack(alone) / sum(alone), rtol=1e-3)


def test_failure_begins_where_losses_go_high_and_stay() -> None:
    good, high = [0.5] * 30, [3.0] * 100
    assert failure_index(good + high, 2) == 30
    assert failure_index(good + [3.0] * 99 + good, 2) is None
    assert failure_index(good + [3.0, 0.4] + [math.nan] * 100, 2) == 32
    assert failure_index(good + high[1:], 2) is None


def test_a_window_without_an_image_has_all_others(window: Window) -> None:
    less = window.without(3, 5)
    assert less.chosen[3].tolist() == [*window.chosen[3][:5].tolist(), *window.chosen[3][6:].tolist()]
    assert [*less.chosen[:3], *less.chosen[4:]] == [*window.chosen[:3], *window.chosen[4:]]
    single = replace(window, chosen=window.chosen[0].split(1))
    assert single.without(3, 0).chosen == [*single.chosen[:3], *single.chosen[4:]]


def test_twins_are_moved_by_the_stated_share_of_each_weight(network: nn.Module) -> None:
    twin = moved(network.double(), 1e-5, torch.Generator().manual_seed(0))
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert ((parameter - other).norm() / parameter.norm()).item() == pytest.approx(1e-5)
    network.float()


def test_the_step_the_image_and_the_remedy_of_a_failure_are_found(failure: Failure, reruns: Reruns) -> None:
    assert failure.index == failure.tipping.index == 40
    assert int(failure.tipping.image_shares.argmax()) == 7
    assert [step.index for step in failure.before] == list(range(failure.index - 20, failure.index))
    assert reruns.twins == [Rerun(steps, TWINS, TWINS, reruns.twins[0].not_finite) for steps in HORIZONS if steps <= 40]
    assert reruns.decided == reruns.twins[-1]
    assert (reruns.capped, reruns.double.failed) == (Rerun(20, 1, 0, 0), 1)
    assert (reruns.without_largest.failed, reruns.without_smallest.failed) == (0, 1)
    assert failure.tipping.labels[7] != failure.tipping.predictions[7]


def test_a_window_that_does_not_fail_has_no_explanation(network: nn.Module, window: Window) -> None:
    assert find_failure(network, window, window.train(copy.deepcopy(network), 0, 128), CHANCE) is None


def test_a_crawling_network_is_step_limited_and_a_racing_one_noise_limited(network: nn.Module, data: Batch) -> None:
    before = bits(network)
    crawling = branch_test(network, Window(cross_entropy, *data, [], lr=0.01), batch_size=32, steps=60, orders=3)
    racing = branch_test(network, Window(cross_entropy, *data, [], lr=0.4), batch_size=4, steps=120, orders=3)
    assert bits(network) == before
    assert what_limits(crawling).startswith("Training is step-limited")
    assert what_limits(racing).startswith("Training is noise-limited")
    effect = crawling["lr x 2"]
    assert effect.low < effect.mean < effect.high < 1
    assert effect.mean == pytest.approx(math.prod(effect.ratios) ** (1 / 3))
    pairs = zip(effect.losses, crawling["unchanged"].losses, strict=True)
    assert effect.ratios == pytest.approx([changed / unchanged for changed, unchanged in pairs])


def test_effects_that_intervals_do_not_separate_are_undecided() -> None:
    def verdict(**effects: tuple[float, float]) -> str:
        named = {name: Branch([], [], (low + high) / 2, low, high) for name, (low, high) in effects.items()}
        return what_limits({"lr / 8": named["shorter"], "lr x 2": named["longer"], "batch x 8": named["quieter"]})

    undecided = "The test does not decide what limits training, the noise of its steps or their length."
    assert verdict(shorter=(0.5, 0.9), longer=(1.1, 1.2), quieter=(0.5, 0.9)).startswith("Training is noise-limited")
    assert verdict(shorter=(0.5, 1.1), longer=(1.1, 1.2), quieter=(0.5, 0.9)) == undecided
    assert verdict(shorter=(1.1, 1.2), longer=(0.9, 1.1), quieter=(0.5, 0.9)) == undecided
    assert verdict(shorter=(math.nan, math.nan), longer=(0.5, 0.9), quieter=(0.5, 0.9)) == undecided


def test_a_branch_that_fails_leaves_the_question_open(network: nn.Module, data: Batch) -> None:
    test = branch_test(network, Window(cross_entropy, *data, [], lr=1e30), batch_size=4, steps=5, orders=2)
    assert what_limits(test).startswith("The test does not decide")
    assert math.isnan(test["lr / 8"].mean)
    with pytest.raises(ValueError, match="needs 8192 training images, 8 mini-batches, not 4096"):
        branch_test(network, Window(cross_entropy, *data, [], lr=0.1), batch_size=1024, steps=5)
