"""Checkpoints on disk: found, checked before use, and loaded as data, so that nothing in a file can run."""

import pickletools
import re
import struct
import sys
import zipfile
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Only dense tensors and plain values are unpickled, never code.

    Returns:
        Lightning's checkpoint of a `LitMLP`, by `fit` or by anybody's Trainer.

    Raises:
        ValueError: The file is missing, damaged, too large, or not such a checkpoint.
    """
    checkpoint = _unpickle(path)
    name = one_line(str(path))
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(part), dict) for part in ("state_dict", "hyper_parameters")
    ):
        raise ValueError(f"{name} is not a checkpoint of lit_mnist.")
    if "lit_mnist" in checkpoint:
        raise ValueError(f"{name} was written by lit_mnist 1.0, which resumed within epochs; train the run again, or use 1.0.")
    if key := _odd_part(checkpoint):
        raise ValueError(f"{name} holds {one_line(key)}, which no checkpoint has; it was not used.")
    return checkpoint


def _unpickle(path: Path) -> Any:
    import torch

    name = one_line(str(path))
    if re.match(r"\w{2,}:/", str(path)):  # of https://, a Path keeps one slash
        raise ValueError(f"{name} is an address, not a path; download the file and name it.")
    if not path.exists():
        raise ValueError(f"{name} does not exist; name a run folder or a checkpoint file.")
    if not path.is_file():
        raise ValueError(f"{name} is not a file.")
    try:
        _check_size(path)
        with zipfile.ZipFile(path) as archive:
            _check_parts(archive, path)
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged:
            raise ValueError(f"{name} is damaged (its part {one_line(damaged)} is not what was written).")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ValueError as refusal:
        if str(refusal).startswith(name):
            raise
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}.") from None
    except Exception:  # anybody may have written it: zipfile and torch raise whatever they stumble over
        pass
    raise ValueError(f"{name} is not a checkpoint, or only a part of one.") from None


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
        raise ValueError(f"{one_line(str(path))} is larger than a checkpoint can be; it was not used.")
    if place != size - 98 or begin + length != place or struct.unpack("<II", end[88:96]) != (length, begin):
        raise ValueError("the list of parts is elsewhere")


def _check_parts(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses what would take much memory or time to unpack or unpickle, and what would make anything but plain values."""
    name = one_line(str(path))
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError(f"{name} has compressed parts, which no checkpoint has; it was not used.")
    pickles = [part for part in parts if part.filename.lower().endswith("data.pkl")]  # torch ignores case
    plain = sum(part.file_size for part in pickles)
    if sum(part.file_size for part in parts) > path.stat().st_size or plain > LARGEST_PICKLE:
        raise ValueError(f"{name} is larger than a checkpoint can be; it was not used.")
    for part in pickles:
        for count, (operation, argument, _) in enumerate(pickletools.genops(archive.read(part))):
            if count > MOST_OPERATIONS:
                raise ValueError(f"{name} is larger than a checkpoint can be; it was not used.")
            if operation.name == "GLOBAL" and not PLAIN_TYPES.fullmatch(str(argument)):
                what = one_line(str(argument).replace(" ", "."))
                raise ValueError(f"{name} holds more than dense tensors and plain values ({what}); it was not loaded.")


def _odd_part(checkpoint: dict[Any, Any]) -> str:
    """Names the first part of a checkpoint that is not plain: an overlapping tensor, a huge number, deep or endless nesting."""
    import torch

    waiting: list[tuple[str, Any, int]] = [("", checkpoint, 0)]
    for _ in range(MOST_OPERATIONS):
        if not waiting:
            return ""
        key, value, depth = waiting.pop()
        is_odd = depth > DEPTH
        if isinstance(value, dict):
            is_odd |= not all(isinstance(name, (str, int)) for name in value)
            waiting += [(f"{key}.{name}".strip("."), each, depth + 1) for name, each in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(key, each, depth + 1) for each in value]
        elif isinstance(value, int):
            is_odd |= value.bit_length() > 64
        elif isinstance(value, torch.Tensor):
            is_odd |= not value.is_contiguous()
        elif value is not None and not isinstance(value, (str, float, bytes)):
            is_odd = True
        if is_odd:
            return key[:200]
    return "more values than can be counted"


def find_checkpoint(run_or_file: Path) -> Path:
    """Finds the newest whole checkpoint of a run folder, of the newest run below a folder, or takes the file itself.

    Says on stderr which damaged ones it passed over.

    Raises:
        ValueError: There is none.
    """
    if not run_or_file.is_dir():
        try:
            read_checkpoint(run_or_file)
        except ValueError as fault:
            if ";" in str(fault):  # what to do next is said
                raise
            raise ValueError(f"{str(fault).rstrip('.')}; name a run folder, such as logs/lr0.1/version_0.") from None
        return run_or_file
    for path in _candidates(run_or_file):
        try:
            read_checkpoint(path)
        except ValueError as damage:
            print(f"lit_mnist: {damage} Trying the one before it.", file=sys.stderr)
        else:
            return path
    name = one_line(str(run_or_file))
    raise ValueError(f"{name} holds no usable checkpoint; name a run folder, such as logs/lr0.1/version_0.")


def _candidates(folder: Path) -> list[Path]:
    if found := RunFolder(folder).checkpoints:
        return found
    saved_by_others = [path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file()]
    if saved_by_others:
        return sorted(saved_by_others, key=lambda path: path.stat().st_mtime, reverse=True)
    runs = [RunFolder(path.parent) for path in folder.glob("*/checkpoints")]
    newest = sorted((run.checkpoints[0].stat().st_mtime, str(run.path), run) for run in runs if run.checkpoints)
    return newest[-1][2].checkpoints if newest else []


def load_network(run_or_file: Path) -> TrainedNetwork:
    """Loads the network of a run's newest checkpoint or of a checkpoint file.

    Raises:
        ValueError: As `find_checkpoint`; or the weights are not finite, or do not fit the network that the file describes.
    """
    import torch

    path = find_checkpoint(Path(run_or_file))
    checkpoint = read_checkpoint(path)
    mlp = _build_mlp(checkpoint, path)
    if not all(bool(weights.isfinite().all()) for weights in mlp.state_dict().values()):
        raise ValueError(f"{one_line(str(path))} holds weights that are not finite, as a diverged run has; it cannot be used.")
    with torch.inference_mode():
        if not mlp(torch.rand(1, *mlp.image_shape, generator=torch.Generator().manual_seed(0))).isfinite().all():
            raise ValueError(f"{one_line(str(path))} computes logits that are not finite; it cannot be used.")
    data = mapping_in(checkpoint, "MNISTDataModule")
    dataset, names = data.get("dataset"), data.get("class_names")
    if not (isinstance(names, list) and len(names) == mlp.classes and all(isinstance(name, str) for name in names)):
        names = [str(label) for label in range(mlp.classes)]
    return TrainedNetwork(mlp, path, dataset if isinstance(dataset, str) else "", tuple(names))


def mapping_in(checkpoint: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Returns the mapping under nested keys; an empty one where the file holds something else there, or nothing."""
    inner: Any = checkpoint
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}


def _build_mlp(checkpoint: dict[str, Any], path: Path) -> "MLP":
    """Builds the network that a checkpoint describes, with its weights in float32, in eval mode.

    Raises:
        ValueError: The weights do not fit the network that the checkpoint describes.
    """
    import inspect

    import torch

    from lit_mnist.mlp import MLP

    described = checkpoint["hyper_parameters"]
    weights = {
        name.removeprefix("mlp."): value for name, value in checkpoint["state_dict"].items() if str(name).startswith("mlp.")
    }
    try:
        config = {name: described[name] for name in inspect.signature(MLP).parameters if name in described}
        if len(config["hidden"]) > MOST_LAYERS or not all(value.is_floating_point() for value in weights.values()):
            raise ValueError
        with torch.device("meta"):  # no memory, and no random numbers, for weights that are replaced at once
            mlp = MLP(**config)
        mlp.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, OverflowError):
        raise ValueError(f"{one_line(str(path))} holds a network other than lit_mnist's MLP.") from None
    return mlp.float().eval()
