"""The command `predict`: classifies your own pictures, or the test images."""

import csv
import io
import operator
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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

    from lit_mnist.record.checkpoint import TrainedNetwork

HEADER = ("file", "class", "probability", "note")
TITLE = "lit_mnist: predictions"  # in the metadata of a sheet
UNSURE = 0.5  # probabilities below it are set in red
THUMBNAIL = 300  # pixels


class Pictured(NamedTuple):
    """A picture that is classified."""

    name: str
    note: str  # for the user; "" mostly
    prepared: NDArray[np.uint8]  # (height, width), what the network sees
    given: NDArray[np.uint8] | None  # (H, W, 3), reduced in size; None after the first 100


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
    failed = 0
    if options.images is None:
        name, pictures, truth = _test_images(network, options.dataset, options.root)
        classes, sure = _classified(network, pictures)
        right = sum(map(operator.eq, classes, truth))
        print(f"{name}: {right:,} of {len(truth):,} test images right, {100 * right / len(truth):.2f} %")
    else:
        pictures, failed = _read_files(network, options.images, {os.path.realpath(out), os.path.realpath(sheet)})
        classes, sure = _classified(network, pictures)
        for picture, predicted, probability in zip(pictures, classes, sure, strict=True):
            print(f"{one_line(predicted)}  {probability:.4f}  {one_line(picture.name)}")
    _write(pictures, classes, sure, out, sheet)
    if failed:
        print(f"lit_mnist: {failed} of {failed + len(pictures)} files gave no prediction.", file=sys.stderr)
    return FAILED if failed else DONE


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


def _read_files(network: "TrainedNetwork", paths: Sequence[str], passed_over: Collection[str]) -> tuple[list[Pictured], int]:
    """Reads files, and folders with all in them, but those passed over; returns also how many could not be read."""
    pictures: list[Pictured] = []
    failed = 0
    for path in list_files(map(Path, paths)):
        if os.path.realpath(path) in passed_over:  # written by an earlier call; `resolve()` raises on symlink loops
            continue
        name = one_line(str(path))
        try:
            picture, has_more = read(path)
            image, note = prepare_for(network, picture)
        except ValueError as fault:
            print(f"lit_mnist: {name}: {one_line(str(fault))}", file=sys.stderr)
            failed += 1
            continue
        notes = [each for each in (note, "the first of its frames is used." if has_more else "") if each]
        for each in notes:
            print(f"lit_mnist: {name}: {each}", file=sys.stderr)
        pictures.append(Pictured(str(path), " ".join(notes), image, _thumbnail(picture) if len(pictures) < SHOWN else None))
    if not pictures:
        raise ValueError("there is no picture that could be read; nothing was written. Name image files, or folders of them.")
    return pictures, failed


def _test_images(network: "TrainedNetwork", dataset: str | None, root: str | None) -> tuple[str, list[Pictured], list[str]]:
    """Loads test images; returns the name of their data set, the images and the names of their classes."""
    from PIL.Image import fromarray

    from lit_mnist.datasets.files import load

    data = load(dataset or network.dataset or "MNIST", root)
    if data.image_shape != network.mlp.image_shape or len(data.classes) != network.mlp.classes:
        raise ValueError(f"{data.name} has other images or classes than the network; name its own --dataset.")
    images, truth = data.test
    pictures = [
        Pictured(f"{data.name}/test/{number:05d}", "", image, _thumbnail(fromarray(image)) if number < SHOWN else None)
        for number, image in enumerate(images.numpy())
    ]
    return data.name, pictures, [network.class_names[label] for label in truth.tolist()]


def _classified(network: "TrainedNetwork", pictures: Sequence[Pictured]) -> tuple[list[str], list[float]]:
    """Returns the class of each picture and its probability."""
    import torch

    labels, probabilities = classify(network, torch.from_numpy(np.stack([picture.prepared for picture in pictures])))
    return [network.class_names[label] for label in labels.tolist()], probabilities.amax(1).tolist()


def _write(pictures: Sequence[Pictured], classes: Sequence[str], sure: Sequence[float], out: Path, sheet: Path) -> None:
    """Writes the table and the sheet, and says so."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(HEADER)
    captions, doubtful = [], set()
    for number, (picture, predicted, probability) in enumerate(zip(pictures, classes, sure, strict=True)):
        name = one_line(picture.name)
        rows.writerow((csv_cell(name), csv_cell(predicted), f"{probability:.6f}", picture.note))
        captions.append(f"{name}\n{one_line(predicted)}   {100 * probability:.1f} %")
        if picture.note or probability < UNSURE:
            doubtful.add(number)
    given = [picture.given for picture in pictures if picture.given is not None]
    rest = f" (the first {SHOWN} of {len(pictures):,})" if len(pictures) > SHOWN else ""
    title = f"Each picture beside what the network saw{rest}"
    figure = draw_images(given, captions, title, [picture.prepared for picture in pictures[:SHOWN]], doubtful)
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
