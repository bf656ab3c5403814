"""The command `predict`: classifies your own pictures, or the test images."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lit_mnist.cli import DONE, FAILED, Parser
from lit_mnist.plots import SHOWN, as_png, draw_images
from lit_mnist.predict.pictures import eight_bit, list_files, read
from lit_mnist.predict.predict import classify, network_of, prepare_for
from lit_mnist.record.atomic import beginning, check_writable, write_atomically
from lit_mnist.record.printable import csv_cell, one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from lit_mnist.record.checkpoint import TrainedNetwork

HEADER = ("file", "class", "probability", "note")
TITLE = "lit_mnist: predictions"  # in the metadata of a sheet
UNSURE = 0.5  # probabilities below it are set in red
THUMBNAIL = 300  # pixels


@dataclass
class Pictures:
    """What is to be classified: names, notes for the user, what the network sees, and the first 100 as they are."""

    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prepared: list[NDArray[np.uint8]] = field(default_factory=list)
    given: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, name: str, note: str, prepared: NDArray[np.uint8], given: "Image") -> None:
        self.names.append(name)
        self.notes.append(note)
        self.prepared.append(prepared)
        if len(self.given) < SHOWN:
            self.given.append(_thumbnail(given))


def main(args: list[str]) -> int:
    """Runs the command `predict`.

    Returns:
        0: every file was read; 1: some were not, and each got a sentence on stderr.

    Raises:
        ValueError: Bad input, or none of the files could be read.
    """
    options, unknown = _parser().parse_known_args(args)
    if unknown:
        raise ValueError(f"predict does not take {unknown[0]}; write --images before pictures (see lit_mnist predict --help).")
    run, out, sheet = options.run or options.ckpt_path, Path(options.out), Path(options.sheet)
    if not run:
        raise ValueError(
            "predict needs a run folder or a checkpoint file: lit_mnist predict logs/lr0.1/version_0 --images PATH."
        )
    _check_outputs(out, sheet, [Path(name) for name in options.images or []])
    network = network_of(run)
    if options.images is None:
        return _predict_test_images(network, options.dataset, options.root, out, sheet)
    return _predict_files(network, [Path(name) for name in options.images], out, sheet)


def _parser() -> Parser:
    parser = Parser(
        prog="lit_mnist predict",
        description="Classifies pictures: one digit in each, of any size, dark on light or light on dark. "
        "Without --images: the test images of the data set.",
        epilog="exit codes: 0 every file was read, 1 some were not (see stderr), 2 bad input, or none was",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument("--ckpt_path", metavar="RUN", help="the same as an option")
    parser.add_argument("--images", nargs="+", metavar="PATH", help="image files, and folders with their subfolders")
    what = f"{','.join(HEADER)} (default: %(default)s)"
    parser.add_argument("--out", default="predictions.csv", metavar="FILE.csv", help=what)
    what = "each input beside what the network saw, the first 100 (default: %(default)s)"
    parser.add_argument("--sheet", default="predictions.png", metavar="FILE.png", help=what)
    parser.add_argument("--dataset", metavar="NAME", help="whose test images (default: the one the run was trained on)")
    parser.add_argument("--root", metavar="DIR", help="folder of the data sets (default: the package's own)")
    return parser


def _check_outputs(out: Path, sheet: Path, inputs: Sequence[Path]) -> None:
    if sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {sheet}: its name must end in .png.")
    if os.path.realpath(out) == os.path.realpath(sheet):
        raise ValueError(f"--out and --sheet are both {out}.")
    for option, path in (("--out", out), ("--sheet", sheet)):
        if any(file.is_file() and os.path.realpath(file) == os.path.realpath(path) for file in inputs):
            raise ValueError(f"{path} is both among --images and to be written; choose another {option}.")
        check_writable(path)
        if path.is_file() and not _is_ours(path):
            raise ValueError(f"{option} {path} exists and is not a file that predict wrote; choose another {option}.")


def _is_ours(path: Path) -> bool:
    head = beginning(path)
    return head.startswith(f"{','.join(HEADER)}\n".encode()) or f"Title\0{TITLE}".encode() in head


def _predict_files(network: "TrainedNetwork", paths: Sequence[Path], out: Path, sheet: Path) -> int:
    import torch

    written = {os.path.realpath(out), os.path.realpath(sheet)}  # `resolve()` raises on symlink loops
    pictures, failed = Pictures(), 0
    for path in list_files(paths):
        if os.path.realpath(path) in written:  # by an earlier call
            continue
        name = one_line(str(path))
        try:
            picture, has_more = read(path)
            image, note = prepare_for(network, picture)
        except ValueError as fault:
            print(f"lit_mnist: {name}: {one_line(str(fault))}", file=sys.stderr)
            failed += 1
            continue
        notes = [note, "the first of its frames is used." if has_more else ""]
        for each in filter(None, notes):
            print(f"lit_mnist: {name}: {each}", file=sys.stderr)
        pictures.add(str(path), " ".join(filter(None, notes)), image, picture)
    if not pictures.names:
        raise ValueError("there is no picture that could be read; nothing was written. Name image files, or folders of them.")
    labels, probabilities = classify(network, torch.from_numpy(np.stack(pictures.prepared)))
    for name, label, probability in zip(pictures.names, labels.tolist(), probabilities.amax(1).tolist(), strict=True):
        print(f"{one_line(network.class_names[label])}  {probability:.4f}  {one_line(name)}")
    _write(network, pictures, labels, probabilities, out, sheet)
    if failed:
        print(f"lit_mnist: {failed} of {failed + len(pictures.names)} files gave no prediction.", file=sys.stderr)
    return FAILED if failed else DONE


def _predict_test_images(network: "TrainedNetwork", dataset: str | None, root: str | None, out: Path, sheet: Path) -> int:
    from PIL.Image import fromarray

    from lit_mnist.datasets.files import load

    data = load(dataset or network.dataset or "MNIST", root)
    images, truth = data.test
    if data.image_shape != network.mlp.image_shape or len(data.classes) != network.mlp.classes:
        raise ValueError(f"{data.name} has other images or classes than the network; name its own --dataset.")
    labels, probabilities = classify(network, images)
    pictures = Pictures()
    for number, image in enumerate(images.numpy()):
        pictures.add(f"{data.name}/test/{number:05d}", "", image, fromarray(image))
    right = int((labels == truth).sum())
    print(f"{data.name}: {right:,} of {len(images):,} test images right, {100 * right / len(images):.2f} %")
    _write(network, pictures, labels, probabilities, out, sheet)
    return DONE


def _write(
    network: "TrainedNetwork", pictures: Pictures, labels: "Tensor", probabilities: "Tensor", out: Path, sheet: Path
) -> None:
    """Writes the table and the sheet, and says so."""
    classes, sure = [network.class_names[label] for label in labels.tolist()], probabilities.amax(1).tolist()
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(HEADER)
    for name, predicted, probability, note in zip(pictures.names, classes, sure, pictures.notes, strict=True):
        rows.writerow((csv_cell(one_line(name)), csv_cell(predicted), f"{probability:.6f}", note))
    captions = [
        f"{one_line(name)}\n{one_line(predicted)}   {100 * probability:.1f} %"
        for name, predicted, probability in zip(pictures.names[:SHOWN], classes, sure, strict=False)
    ]
    rest = f" (the first {SHOWN} of {len(pictures.names):,})" if len(pictures.names) > SHOWN else ""
    doubtful = {index for index, note in enumerate(pictures.notes) if note or sure[index] < UNSURE}
    title = f"Each picture beside what the network saw{rest}"
    figure = draw_images(pictures.given, captions, title, pictures.prepared[:SHOWN], doubtful)
    write_atomically(out, table.getvalue().encode())
    write_atomically(sheet, as_png(figure, TITLE))
    print(f"written: {out}, {sheet}")


def _thumbnail(picture: "Image") -> NDArray[np.uint8]:
    """A picture reduced in size, (H, W, 3); grey where it is transparent."""
    from PIL import Image

    layered = eight_bit(picture).convert("RGBA")
    layered.thumbnail((THUMBNAIL, THUMBNAIL))
    page = Image.new("RGBA", layered.size, "#dddddd")
    return np.asarray(Image.alpha_composite(page, layered).convert("RGB"))
