"""The command `predict`: tells the digits in your own pictures; and the same from Python."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lit_mnist.cli.command import DONE, FAILED, Parser
from lit_mnist.predict.picture_files import list_files, printable
from lit_mnist.record.atomic import check_place, write_durably

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lit_mnist.lit_mlp import LitMLP
    from lit_mnist.mlp import MLP

Checkpoint: TypeAlias = "str | Path | MLP | LitMLP"
Picture: TypeAlias = "str | Path | Image"

BATCH = 10_000  # images for which the activations of the published network take 31 MB


def predict_images(checkpoint: "Checkpoint", images: "Picture | Sequence[Picture] | Tensor") -> "tuple[Tensor, Tensor]":
    """Tells the digits in images.

    Args:
        checkpoint: A run folder, a checkpoint file, or a network (`MLP` or `LitMLP`).
        images: Paths of image files or `PIL.Image.Image`s of any size and mode, which are prepared as
            `lit_mnist.predict.preprocess.prepare` says. Or a tensor (N, 1, 28, 28) or (N, 28, 28) of images that are
            prepared already: 0 background and 255 ink where it is uint8, 0 and 1 where it is floating point.

    Returns:
        Labels (N,) int64 in 0..9 and probabilities (N, 10) float32, whose rows sum to 1.

    Raises:
        ValueError: The checkpoint cannot be used, an image cannot be read or is blank, or a tensor has
            another shape, type or range.
    """
    import torch
    from torch import Tensor

    network = _network(checkpoint)
    if isinstance(images, Tensor):
        return _predict(network, _checked(images))
    pictures = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    prepared = [_prepared(picture, number) for number, picture in enumerate(pictures)]
    return _predict(network, torch.stack(prepared) if prepared else torch.empty(0, 28, 28))


def _network(checkpoint: "Checkpoint") -> "MLP":
    from lit_mnist.mlp import MLP
    from lit_mnist.record.checkpoint import load_mlp

    if isinstance(checkpoint, (str, Path)):
        return load_mlp(Path(checkpoint))
    network = getattr(checkpoint, "mlp", checkpoint)
    if not isinstance(network, MLP):
        raise ValueError(f"checkpoint: neither a path nor a network, but {type(checkpoint).__name__}.")
    return network


def _checked(images: "Tensor") -> "Tensor":
    import torch

    if images.shape[1:] not in (torch.Size([28, 28]), torch.Size([1, 28, 28])):
        raise ValueError(f"images: a tensor must be (N, 1, 28, 28) or (N, 28, 28), not {tuple(images.shape)}.")
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise ValueError(f"images: a tensor must be uint8 or floating point, not {images.dtype}.")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError("images: a floating-point tensor must lie in [0, 1]; divide grey levels of 0 to 255 by 255.")
    return images.reshape(-1, 28, 28)


def _predict(network: "MLP", images: "Tensor") -> "tuple[Tensor, Tensor]":
    import torch

    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    probabilities = [torch.empty(0, 10)]
    with torch.inference_mode():
        for batch in torch.split(images, BATCH):
            levels = batch.to(device).float() / 255 if batch.dtype == torch.uint8 else batch.to(device).float()
            probabilities.append(network(levels.unsqueeze(1)).softmax(1).cpu())
    network.train(was_training)
    result = torch.cat(probabilities).clone()
    return result.argmax(1), result


def _prepared(picture: Picture, number: int) -> "Tensor":
    """(28, 28) uint8; `number` names a picture that has no path."""
    import torch
    from PIL.Image import Image

    from lit_mnist.predict.preprocess import prepare, read, upright

    name = picture if isinstance(picture, (str, Path)) else f"images[{number}]"
    try:
        if isinstance(picture, (str, Path)):
            return torch.from_numpy(prepare(read(Path(picture))[0]))
        if not isinstance(picture, Image):
            raise ValueError(f"neither a path nor a PIL image, but {type(picture).__name__}.")
        return torch.from_numpy(prepare(upright(picture)))
    except ValueError as fault:
        raise ValueError(f"{name}: {fault}") from None


def main(args: list[str]) -> int:
    """The command `predict`.

    Returns:
        0: every file was read; 1: some were not, and each got a sentence on stderr.

    Raises:
        ValueError: Bad input, or none of the files could be read.
    """
    options = _parser().parse_args(args)
    out, sheet = Path(options.out), Path(options.sheet)
    if sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {sheet}: its name must end in .png.")
    if os.path.realpath(out) == os.path.realpath(sheet):
        raise ValueError(f"--out and --sheet are both {out}.")
    for path in (out, sheet):
        check_place(path)
    if options.images is None:
        return _predict_test_images(options.ckpt_path, options.dataset, options.root, out, sheet)
    return _predict_files(options.ckpt_path, [Path(name) for name in options.images], out, sheet)


def _parser() -> Parser:
    parser = Parser(
        prog="lit_mnist predict",
        description="Tells the digits in pictures: one in each, of any size, dark on light or light on dark. "
        "A picture of exactly 28x28 pixels is taken as prepared already. "
        "Without --images: the 10,000 test images.",
        epilog="exit codes: 0 every file was read, 1 some were not (see stderr), 2 bad input, or none was",
    )
    parser.add_argument("--ckpt_path", required=True, metavar="RUN_OR_FILE", help="run folder or checkpoint file")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="image files, and folders of them (with their subfolders; hidden files are passed over)",
    )
    parser.add_argument(
        "--out",
        default="predictions.csv",
        metavar="FILE.csv",
        help="file,digit,probability (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet",
        default="predictions.png",
        metavar="FILE.png",
        help="each input beside the 28x28 that the network saw, the first 100 (default: %(default)s)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="whose test images (default: the one that the run was trained on)")
    parser.add_argument("--root", metavar="DIR", help="folder of the data sets (default: the user's cache folder)")
    return parser


def _predict_files(checkpoint: str, paths: Sequence[Path], out: Path, sheet: Path) -> int:
    import torch

    from lit_mnist.predict.preprocess import prepare, read
    from lit_mnist.predict.sheet import Sheet

    written = {os.path.realpath(out), os.path.realpath(sheet)}  # Path.resolve refuses a link to itself
    for path in paths:
        if path.is_file() and os.path.realpath(path) in written:
            raise ValueError(f"{path} is both among --images and to be written; choose another --out or --sheet.")
    network = _network(checkpoint)
    drawing, names, prepared, failed = Sheet(), [], [], 0
    for path in list_files(paths):
        if os.path.realpath(path) in written:  # by an earlier call
            continue
        name = printable(path)
        try:
            picture, frames = read(path)
            image = prepare(picture)
        except ValueError as fault:
            print(f"lit_mnist: {name}: {fault}", file=sys.stderr)
            failed += 1
            continue
        if frames > 1:
            print(f"lit_mnist: {name}: the first of its {frames} frames is used.", file=sys.stderr)
        drawing.add(picture, image)
        names.append(name)
        prepared.append(torch.from_numpy(image))
    if not names:
        raise ValueError("there is no picture that could be read; nothing was written.")
    labels, probabilities = _predict(network, torch.stack(prepared))
    for name, digit, probability in zip(names, labels.tolist(), probabilities.amax(1).tolist(), strict=True):
        print(f"{digit}  {probability:.4f}  {name}")
    _write(out, names, labels, probabilities)
    write_durably(sheet, drawing.as_png(names, labels.tolist(), probabilities.amax(1).tolist()))
    print(f"written: {out}, {sheet}")
    if failed:
        print(f"lit_mnist: {failed} of {failed + len(names)} files gave no prediction.", file=sys.stderr)
    return FAILED if failed else DONE


def _predict_test_images(checkpoint: str, dataset: str | None, root: str | None, out: Path, sheet: Path) -> int:
    from PIL.Image import fromarray

    from lit_mnist.datasets.files import DEFAULT_ROOT, load, prepare
    from lit_mnist.predict.sheet import SHOWN, Sheet
    from lit_mnist.record.checkpoint import data_of, find_checkpoint

    path = find_checkpoint(Path(checkpoint))
    network = _network(path)
    folder = Path(root).expanduser() if root else DEFAULT_ROOT
    dataset = dataset or data_of(path).get("dataset", "MNIST")
    prepare(dataset, folder)
    images, truth = load(dataset, folder, "test")
    labels, probabilities = _predict(network, images)
    names = [f"{dataset}/test/{number:05d}" for number in range(len(images))]
    drawing = Sheet()
    for image in images[:SHOWN].numpy():
        drawing.add(fromarray(image), image)
    _write(out, names, labels, probabilities)
    write_durably(sheet, drawing.as_png(names, labels.tolist(), probabilities.amax(1).tolist()))
    right = int((labels == truth).sum())
    print(f"{dataset}: {right:,} of {len(images):,} test images right, {100 * right / len(images):.2f} %")
    print(f"written: {out}, {sheet}")
    return DONE


def _write(path: Path, names: Sequence[str], labels: "Tensor", probabilities: "Tensor") -> None:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("file", "digit", "probability"))
    for name, digit, probability in zip(names, labels.tolist(), probabilities.amax(1).tolist(), strict=True):
        rows.writerow((name, digit, f"{probability:.6f}"))
    write_durably(path, table.getvalue().encode())
