"""Checkpoints on disk: written durably, checked before use, loaded without running any of what is in them."""

import io
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from typing_extensions import override

from lit_mnist.mlp import MLP
from lit_mnist.record.atomic import write_durably
from lit_mnist.training.processes import from_first

CHECKPOINT_FORMAT = 1
KEPT = 2  # the newest, and the one before it in case the newest is damaged later


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours onto the CPU. Only tensors and plain values are unpickled, never code.

    Raises:
        ValueError: The file is missing, damaged, not a checkpoint of lit_mnist, or of another format.
    """
    checkpoint = _unpickled(path)
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(part), dict) for part in ("lit_mnist", "state_dict", "hyper_parameters")
    ):
        raise ValueError(f"{path} is not a checkpoint of lit_mnist.")
    written = checkpoint["lit_mnist"].get("format")
    if written != CHECKPOINT_FORMAT:
        raise ValueError(f"{path} has format {written}, but this version of lit_mnist reads format {CHECKPOINT_FORMAT}.")
    return checkpoint


def _unpickled(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not check the CRC-32 of what it reads
            damaged = archive.testzip()
        if not damaged:
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors and plain values; it was not loaded, and none of it ran.") from None
    except Exception:  # anybody may have written it: zipfile and torch raise whatever they stumble over
        raise ValueError(f"{path} is not a checkpoint, or only a part of one.") from None
    raise ValueError(f"{path} is damaged (its part {damaged} is not what was written).")


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first."""
    return sorted((run / "checkpoints").glob(f"step={8 * '[0-9]'}.ckpt"), reverse=True)  # a callback may save its own there


def find_checkpoint(run_or_file: Path) -> Path:
    """The newest whole checkpoint of a run folder, or the file itself.

    Says on stderr which damaged ones it passed over.

    Raises:
        ValueError: There is none.
    """
    if re.match(r"\w{2,}:/", str(run_or_file)):  # of https://, a Path keeps one slash
        raise ValueError(f"{run_or_file} is an address, not a path; nothing is fetched.")
    if not run_or_file.is_dir():
        read_checkpoint(run_or_file)
        return run_or_file
    for path in list_checkpoints(run_or_file):
        try:
            read_checkpoint(path)
        except ValueError as damage:
            print(f"lit_mnist: {damage} Trying the one before it.", file=sys.stderr)
        else:
            return path
    raise ValueError(f"{run_or_file} holds no usable checkpoint.")


def data_of(path: Path) -> dict[str, Any]:
    """What the data module said of itself when a checkpoint was saved: data set, sizes, seed; empty where there was another."""
    data: dict[str, Any] = read_checkpoint(path).get("MNISTDataModule", {})
    return data


def load_mlp(run_or_file: Path) -> MLP:
    """The network of a run's newest checkpoint or of a checkpoint file, float32, on the CPU, in eval mode.

    Raises:
        ValueError: As `find_checkpoint`, or the file's weights do not fit the network that it describes.
    """
    path = find_checkpoint(Path(run_or_file))
    checkpoint = read_checkpoint(path)
    try:
        with torch.device("meta"):  # no memory, and no random numbers, for weights that are replaced at once
            mlp = MLP(checkpoint["hyper_parameters"]["hidden"])
        weights = {name.removeprefix("mlp."): value for name, value in checkpoint["state_dict"].items()}
        mlp.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError):
        raise ValueError(f"{path} holds another network than lit_mnist's MLP.") from None
    return mlp.float().eval()


class DurableCheckpointIO(CheckpointIO):
    """The Trainer's way to the disk: whole files, the one before kept, nothing unpickled but plain values."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_durably(Path(path), buffer.getvalue())
        if Path(path).parent.name == "checkpoints":
            for old in list_checkpoints(Path(path).parent.parent)[KEPT:]:
                self.remove_checkpoint(old)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return from_first(lambda: read_checkpoint(Path(path)))  # other hosts may not see the file

    @override
    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
