"""Checkpoints on disk: written durably, checked before use, loaded without running a line of what is in them."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from typing_extensions import override

from lit_mnist.durable import write_durably
from lit_mnist.lit_mlp import CHECKPOINT_FORMAT, LitMLP
from lit_mnist.mlp import MLP

KEPT = 2  # the newest, and the one before it in case the newest is damaged later
NAME = "step={:08d}.ckpt"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours onto the CPU. Only tensors and plain values are unpickled, never code.

    Raises:
        ValueError: The file is missing, damaged, not a checkpoint of lit_mnist, of a newer format, or of another network.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not check the CRC-32 of what it reads
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{path} is damaged (its part {damaged} is not what was written).")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors and plain values; it was not loaded, and none of it ran.") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, KeyError, NotImplementedError):
        raise ValueError(f"{path} is not a checkpoint, or only a part of one.") from None
    ours = checkpoint.get("lit_mnist") if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        raise ValueError(f"{path} is not a checkpoint of lit_mnist.")
    if ours.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{path} has format {ours.get('format')}, but this version of lit_mnist reads format {CHECKPOINT_FORMAT}."
        )
    return checkpoint


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first."""
    return sorted((run / "checkpoints").glob("step=*.ckpt"), reverse=True)


def find_checkpoint(run_or_file: Path) -> Path:
    """The newest whole checkpoint of a run folder, or the file itself. Says on stderr which damaged ones it passed over.

    Raises:
        ValueError: There is none.
    """
    import sys

    if not run_or_file.is_dir():
        read_checkpoint(run_or_file)
        return run_or_file
    for path in list_checkpoints(run_or_file):
        try:
            read_checkpoint(path)
        except ValueError as damage:
            print(f"lit_mnist: {damage} Using the one before it.", file=sys.stderr)
        else:
            return path
    raise ValueError(f"{run_or_file} holds no usable checkpoint.")


def load_mlp(run_or_file: Path) -> MLP:
    """The network of a run folder's newest checkpoint or of a checkpoint file, on the CPU, in eval mode.

    Raises:
        ValueError: As `find_checkpoint`, or the file's weights do not fit the network that it describes.
    """
    path = find_checkpoint(Path(run_or_file))
    module = module_from(read_checkpoint(path), path)
    return module.mlp.eval()


def module_from(checkpoint: dict[str, Any], path: Path) -> LitMLP:
    """The module that a checkpoint describes, with its weights.

    Raises:
        ValueError: The weights do not fit; `path` is named.
    """
    try:
        module = LitMLP(**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
    except (TypeError, ValueError, RuntimeError, AttributeError):
        raise ValueError(f"{path} holds another network than lit_mnist's MLP.") from None
    return module


class DurableCheckpointIO(CheckpointIO):
    """The Trainer's way to the disk: whole files only, the one before kept, nothing unpickled but tensors and plain values."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_durably(Path(path), buffer.getvalue())
        if Path(path).parent.name == "checkpoints":
            for old in list_checkpoints(Path(path).parent.parent)[KEPT:]:
                self.remove_checkpoint(old)

    @override
    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        return read_checkpoint(Path(path))

    @override
    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
