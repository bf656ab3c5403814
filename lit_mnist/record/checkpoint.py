"""Checkpoints on disk: found, checked before use, and loaded as data, so that nothing in a file can run."""

import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist.record.folder import RunFolder
from lit_mnist.record.printable import one_line

if TYPE_CHECKING:
    from lit_mnist.mlp import MLP

LARGEST_CHECKPOINT = 4 * 2**30  # bytes
LARGEST_PICKLE = 4 * 2**20  # bytes of everything but the weights; a run of 1,000 epochs has 1 MB
LARGEST_LIST = 2**20  # bytes of the archive's list of parts; 80 for each
MOST_OPERATIONS = 150_000  # of the unpickler; a run of 1,000 epochs needs 100,000
MOST_LAYERS = 100
TOO_LARGE = "is larger than a checkpoint can be; it was not used."
DEPTH = 16  # of nested values; the Trainer's own counters reach 7
# What a checkpoint may name, as pickle writes it: the parts of dense tensors of ordinary numbers.
PLAIN_TYPES = re.compile(
    r"collections (OrderedDict|Counter)|torch._utils _rebuild_(tensor_v2|parameter)|torch Size|"
    r"torch (Bool|Byte|Char|Short|Int|Long|Half|BFloat16|Float|Double)Storage"
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network from a checkpoint.

    Attributes:
        mlp: float32, on the CPU, in eval mode; its weights are finite.
        path: The checkpoint file.
        dataset: Name or folder of the data set that it was trained on; "" where the checkpoint does not say.
        class_names: Names of the classes, by label.
    """

    mlp: "MLP"
    path: Path
    dataset: str
    class_names: tuple[str, ...]


class _Refused(Exception):
    """Says in the rest of a sentence, after the name of the file, why it is not used."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Only dense tensors and plain values are unpickled, never code.

    Returns:
        Lightning's checkpoint of a `LitMLP`, by `fit` or by anybody's Trainer.

    Raises:
        ValueError: The file is missing, damaged, too large, or not such a checkpoint.
    """
    name = one_line(str(path))
    try:
        checkpoint: dict[str, Any] = _unpickle(path)
        if not (mapping_in(checkpoint, "state_dict") and mapping_in(checkpoint, "hyper_parameters")):
            raise _Refused("is not a checkpoint of lit_mnist.")
        if "lit_mnist" in checkpoint:
            raise _Refused("was written by lit_mnist 1.0, which resumed within epochs; train the run again, or use 1.0.")
        if key := _odd_part(checkpoint):
            raise _Refused(f"holds {one_line(key)}, which no checkpoint has; it was not used.")
    except _Refused as refusal:
        raise ValueError(f"{name} {refusal}") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}.") from None
    except Exception:  # anybody may have written it: zipfile and torch raise whatever they stumble over
        raise ValueError(f"{name} is not a checkpoint, or only a part of one.") from None
    return checkpoint


def _unpickle(path: Path) -> Any:
    import torch

    if re.match(r"\w{2,}:/", str(path)):  # of https://, a Path keeps one slash
        raise _Refused("is an address, not a path; download the file and name it.")
    if not path.exists():
        raise _Refused("does not exist; name a run folder or a checkpoint file.")
    if not path.is_file():
        raise _Refused("is not a file.")
    _check_size(path)
    with zipfile.ZipFile(path) as archive:
        _check_parts(archive, path)
        damaged = archive.testzip()  # torch.load does not compare the checksums
    if damaged:
        raise _Refused(f"is damaged (its part {one_line(damaged)} is not what was written).")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_size(path: Path) -> None:
    """Refuses an archive of too many parts by its end; zipfile would read the whole list of them.

    The end as torch writes it: a record of 64-bit sizes (56 bytes), where that is (20), a record of 32-bit sizes (22). The list
    of parts must lie right before it: where it says otherwise, zipfile and torch would read different lists.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        end = file.read(98)
    if len(end) < 98 or end[:4] != b"PK\x06\x06" or end[76:80] != b"PK\x05\x06":
        raise ValueError("the end of an archive is missing")
    length, begin, place = struct.unpack("<QQ8xQ", end[40:72])
    if length > LARGEST_LIST or size > LARGEST_CHECKPOINT:
        raise _Refused(TOO_LARGE)
    if place != size - 98 or begin + length != place or struct.unpack("<II", end[88:96]) != (length, begin):
        raise ValueError("the list of parts is elsewhere")


def _check_parts(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses what would take much memory or time to unpack or unpickle, and what would make anything but plain values."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise _Refused("has compressed parts, which no checkpoint has; it was not used.")
    pickles = [part for part in parts if part.filename.lower().endswith("data.pkl")]  # torch ignores case
    plain = sum(part.file_size for part in pickles)
    if sum(part.file_size for part in parts) > path.stat().st_size or plain > LARGEST_PICKLE:
        raise _Refused(TOO_LARGE)
    for part in pickles:
        for count, (operation, argument, _) in enumerate(pickletools.genops(archive.read(part))):
            if count > MOST_OPERATIONS:
                raise _Refused(TOO_LARGE)
            if operation.name == "GLOBAL" and not PLAIN_TYPES.fullmatch(str(argument)):
                what = one_line(str(argument).replace(" ", "."))
                raise _Refused(f"holds more than dense tensors and plain values ({what}); it was not loaded.")


def _odd_part(checkpoint: dict[Any, Any]) -> str:
    """Names the first part of a checkpoint that is not plain: an overlapping tensor, a huge number, deep or endless nesting."""
    import torch

    waiting: list[tuple[str, Any, int]] = [("", checkpoint, 0)]
    for _ in range(MOST_OPERATIONS):
        if not waiting:
            return ""
        key, value, depth = waiting.pop()
        is_plain = isinstance(value, (str, float, bytes, list, tuple, type(None)))
        if isinstance(value, dict):
            is_plain = all(isinstance(name, (str, int)) for name in value)
            waiting += [(f"{key}.{name}".strip("."), each, depth + 1) for name, each in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(key, each, depth + 1) for each in value]
        elif isinstance(value, int):
            is_plain = value.bit_length() <= 64
        elif isinstance(value, torch.Tensor):
            is_plain = value.is_contiguous()
        if depth > DEPTH or not is_plain:
            return key[:200]
    return "more values than can be counted"


def find_checkpoint(run_or_file: Path) -> Path:
    """Finds the newest whole checkpoint of a run folder, of the newest run below a folder, or takes the file itself.

    Raises:
        ValueError: There is none.
    """
    return next(whole_checkpoints(run_or_file))[0]


def whole_checkpoints(run_or_file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Reads the whole checkpoints that `find_checkpoint` chooses from, newest first; says on stderr which are damaged.

    Raises:
        ValueError: There is none.
    """
    hint = "name a run folder, such as logs/lr0.1/version_0."
    is_folder, found = run_or_file.is_dir(), False
    for path in _candidates(run_or_file) if is_folder else [run_or_file]:
        try:
            checkpoint = read_checkpoint(path)
        except ValueError as damage:
            if not is_folder:  # what to do next may be said already
                raise damage if ";" in str(damage) else ValueError(f"{str(damage).rstrip('.')}; {hint}") from None
            print(f"lit_mnist: {damage} Trying the one before it.", file=sys.stderr)
        else:
            yield path, checkpoint
            found = True
    if not found:
        raise ValueError(f"{one_line(str(run_or_file))} holds no usable checkpoint; {hint}")


def _candidates(folder: Path) -> list[Path]:
    """Lists the checkpoints of a run, by `fit` or by anybody's Trainer, or those of the newest run below a folder."""
    if found := RunFolder(folder).checkpoints:
        return found
    if saved_by_others := [path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file()]:
        return sorted(saved_by_others, key=lambda path: path.stat().st_mtime, reverse=True)
    runs = [found for path in folder.glob("*/checkpoints") if (found := RunFolder(path.parent).checkpoints)]
    return max(runs, key=lambda checkpoints: checkpoints[0].stat().st_mtime, default=[])


def load_network(run_or_file: Path) -> TrainedNetwork:
    """Loads the network of a run's newest checkpoint or of a checkpoint file.

    Raises:
        ValueError: As `find_checkpoint`; or the weights are not finite, or do not fit the network that the file describes.
    """
    import torch

    path, checkpoint = next(whole_checkpoints(Path(run_or_file)))
    name, mlp = one_line(str(path)), _build_mlp(checkpoint)
    if mlp is None:
        raise ValueError(f"{name} holds a network other than lit_mnist's MLP.")
    if not all(bool(weights.isfinite().all()) for weights in mlp.state_dict().values()):
        raise ValueError(f"{name} holds weights that are not finite, as a diverged run has; it cannot be used.")
    with torch.inference_mode():
        if not mlp(torch.rand(1, *mlp.image_shape, generator=torch.Generator().manual_seed(0))).isfinite().all():
            raise ValueError(f"{name} computes logits that are not finite; it cannot be used.")
    data = mapping_in(checkpoint, "MNISTDataModule")
    dataset, names = data.get("dataset"), data.get("class_names")
    if not (isinstance(names, list) and len(names) == mlp.classes and all(isinstance(each, str) for each in names)):
        names = [str(label) for label in range(mlp.classes)]
    return TrainedNetwork(mlp, path, dataset if isinstance(dataset, str) else "", tuple(names))


def _build_mlp(checkpoint: dict[str, Any]) -> "MLP | None":
    """Builds the network that a checkpoint describes, in float32 and eval mode; None if its weights do not fit that."""
    import inspect

    import torch

    from lit_mnist.mlp import MLP

    described = checkpoint["hyper_parameters"]
    state = checkpoint["state_dict"].items()
    weights = {key.removeprefix("mlp."): value for key, value in state if str(key).startswith("mlp.")}
    try:
        config = {name: described[name] for name in inspect.signature(MLP).parameters if name in described}
        if len(config["hidden"]) > MOST_LAYERS or not all(value.is_floating_point() for value in weights.values()):
            return None
        with torch.device("meta"):  # no memory, and no random numbers, for weights that are replaced at once
            mlp = MLP(**config)
        mlp.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, OverflowError):
        return None
    return mlp.float().eval()


def mapping_in(checkpoint: Any, *keys: str) -> dict[str, Any]:
    """Returns the mapping under nested keys; an empty one where the file holds something else there, or nothing."""
    inner: Any = checkpoint
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}
