"""Classifies pictures with a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_mnist.predict.pictures import list_files, read, upright
from lit_mnist.record.printable import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lit_mnist.lit_mlp import LitMLP
    from lit_mnist.mlp import MLP
    from lit_mnist.record.checkpoint import TrainedNetwork

Checkpoint: TypeAlias = "str | Path | MLP | LitMLP"
Picture: TypeAlias = "str | Path | Image | NDArray[Any] | Tensor"

BATCH = 10_000  # images for which the activations of the default network take 31 MB


def predict_images(checkpoint: Checkpoint, images: "Picture | Sequence[Picture]") -> "tuple[Tensor, Tensor]":
    """Classifies images.

    Args:
        checkpoint: A run folder, a checkpoint file, or a network (`MLP` or `LitMLP`).
        images: One picture, or a sequence of pictures: paths of image files or of folders of them, `PIL.Image.Image`s, and
            arrays or tensors (H, W) or (H, W, 3), uint8 or floating point in [0, 1], all of any size and prepared as
            `lit_mnist.predict.preprocess.prepare` says. Or one array or tensor of images as the network sees them, without
            preparation: (N, height, width) or (N, 1, height, width), 0 background and 255 ink in uint8, 0 and 1 in floats.

    Returns:
        Labels (N,) int64, and probabilities (N, number of classes) float32, whose rows sum to 1.

    Raises:
        ValueError: The checkpoint cannot be used, an image cannot be read or is blank, or an array has another shape, type
            or range.
    """
    import torch

    network = network_of(checkpoint)
    shape = network.mlp.image_shape
    if isinstance(images, (np.ndarray, torch.Tensor)) and (images.ndim == 4 or images.shape[-2:] == shape):
        if images.shape[1:] not in (shape, (1, *shape)) and images.shape != shape:
            size = f"{shape[0]}, {shape[1]}"
            raise ValueError(f"images: an array must be (N, {size}) or (N, 1, {size}), not {tuple(images.shape)}.")
        return classify(network, torch.as_tensor(_levels(images)).reshape(-1, *shape))
    prepared = []
    for number, each in enumerate(images if isinstance(images, Sequence) and not isinstance(images, str) else [images]):
        if isinstance(each, (str, Path)):
            prepared += [_prepared(network, path, one_line(str(path))) for path in list_files([Path(each)])]
        else:
            prepared.append(_prepared(network, each, f"images[{number}]"))
    return classify(network, torch.from_numpy(np.stack(prepared)) if prepared else torch.empty(0, *shape))


def network_of(checkpoint: Checkpoint) -> "TrainedNetwork":
    """The network of a run, of a checkpoint file, or as it was given; ValueError where it is none."""
    from lit_mnist.mlp import MLP
    from lit_mnist.record.checkpoint import TrainedNetwork, load_network

    if isinstance(checkpoint, (str, Path)):
        return load_network(Path(checkpoint))
    mlp = getattr(checkpoint, "mlp", checkpoint)
    if not isinstance(mlp, MLP):
        raise ValueError(f"checkpoint: neither a path nor a network, but {type(checkpoint).__name__}.")
    return TrainedNetwork(mlp, Path(), "", tuple(map(str, range(mlp.classes))))


def _levels(images: Any) -> NDArray[Any]:
    images = images.detach().cpu().numpy() if hasattr(images, "detach") else images
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"an array of images must be uint8 or floating point, not {images.dtype}.")
    if images.dtype != np.uint8 and not ((images >= 0) & (images <= 1)).all():
        raise ValueError("floating-point images must lie in [0, 1]; divide grey levels of 0 to 255 by 255.")
    return images  # type: ignore[no-any-return]


def _prepared(network: "TrainedNetwork", picture: Any, name: str) -> NDArray[np.uint8]:
    """Prepares a picture, or the file of one, as `predict_images` takes them; a refusal begins with `name`."""
    from PIL import Image

    try:
        if isinstance(picture, Path):
            return prepare_for(network, read(picture)[0])[0]
        if hasattr(picture, "shape"):
            levels = _levels(picture)
            if levels.ndim != 2 and not (levels.ndim == 3 and levels.shape[2] in (3, 4)):
                raise ValueError(f"an array of one picture must be (H, W) or (H, W, 3), not {levels.shape}.")
            picture = Image.fromarray(levels if levels.dtype == np.uint8 else np.round(levels * 255).astype(np.uint8))
        if not isinstance(picture, Image.Image):
            raise ValueError(f"neither a path, a PIL image nor an array, but {type(picture).__name__}.")
        return prepare_for(network, upright(picture))[0]
    except ValueError as fault:
        raise ValueError(f"{name}: {fault}") from None


def prepare_for(network: "TrainedNetwork", picture: "Image") -> tuple[NDArray[np.uint8], str]:
    """Prepares a picture for a network: the image and a note, as `lit_mnist.predict.preprocess.prepare` says."""
    from lit_mnist.predict.preprocess import prepare

    height, width = network.mlp.image_shape
    of_digits = network.class_names == tuple("0123456789")
    return prepare(picture, (height, width), like_mnist=of_digits)


def classify(network: "TrainedNetwork", images: "Tensor") -> "tuple[Tensor, Tensor]":
    """Labels (N,) and probabilities (N, classes) of images (N, height, width), uint8 or floats in [0, 1].

    Raises:
        ValueError: A logit is not finite.
    """
    import torch

    mlp = network.mlp
    device, was_training = next(mlp.parameters()).device, mlp.training
    mlp.eval()
    probabilities = [torch.empty(0, mlp.classes)]
    with torch.inference_mode():
        for batch in torch.split(images, BATCH):
            levels = batch.to(device).to(mlp.dtype) / (255 if batch.dtype == torch.uint8 else 1)
            probabilities.append(mlp(levels).float().softmax(1).cpu())
    mlp.train(was_training)
    result = torch.cat(probabilities)
    if not result.isfinite().all():
        raise ValueError("the network computes logits that are not finite, as one of a diverged run does; it cannot be used.")
    return result.argmax(1), result
