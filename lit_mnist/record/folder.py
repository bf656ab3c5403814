"""The folder of one run: what lies in it, whether the run is finished, and which process is working there."""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lit_mnist.record.atomic import is_part, make_folder, remove_parts, write_atomically
from lit_mnist.record.configs import read_config

Config = dict[str, Any]
EVENT_FILE = "events.out.tfevents"  # what the names of TensorBoard's files begin with


class RunFolder:
    """`logs/<configuration>/<version>/`, the record of one run.

    Attributes:
        path: The folder; it need not exist yet.
        config_path: The resolved configuration.
        result_path: The result, written last: it exists if and only if the run is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.result_path = path / "result.json"
        self._lock = FileLock(path / ".lock")
        self._made: list[Path] = []  # folders that `lock` made, innermost first

    @property
    def is_finished(self) -> bool:
        return os.path.lexists(self.result_path)

    @property
    def is_free(self) -> bool:
        """True if nothing in it could be lost."""
        if not self.path.is_dir():
            return not os.path.lexists(self.path)
        return all(child.name == ".lock" or is_part(child) for child in self.path.iterdir())

    @property
    def is_foreign(self) -> bool:
        """True if something other than a run of ours wrote files there that a run would replace or remove."""
        ours = self.config is not None or bool(self.checkpoints)
        return not ours and (os.path.lexists(self.config_path) or any(self.path.glob(f"{EVENT_FILE}.*")))

    @property
    def config(self) -> Config | None:
        """The configuration that the run was started with; None where there is none to read."""
        try:
            config = read_config(self.config_path)
        except ValueError:
            return None
        return config if {"model", "data", "trainer"} <= set(config) else None

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that `fit` saved here, newest first; a callback of the user's may save others beside them."""
        names = (
            (re.fullmatch(r"step=(\d{1,18})\.ckpt", path.name), path) for path in (self.path / "checkpoints").glob("*.ckpt")
        )
        return [
            path for _, path in sorted(((int(name[1]), path) for name, path in names if name and path.is_file()), reverse=True)
        ]

    @property
    def event_files(self) -> list[Path]:
        """TensorBoard's files, oldest first: their names go on with the time of their creation."""
        return sorted(path for path in self.path.glob(f"{EVENT_FILE}.*") if path.is_file())

    def checkpoint_before(self, step: int) -> Path | None:
        """Returns the newest checkpoint after at most `step` SGD steps."""
        return next((path for path in self.checkpoints if int(path.stem.removeprefix("step=")) <= step), None)

    def checkpoint_path(self, step: int) -> Path:
        """Returns the place of the checkpoint after `step` SGD steps."""
        return self.path / "checkpoints" / f"step={step:08d}.ckpt"

    def is_open_to(self, config: Config) -> bool:
        """Returns True if a run with this configuration may begin or resume here."""
        return self.is_free or (not self.is_finished and self.config == config)

    def lock(self) -> bool:
        """Claims the folder for this process, until it ends. Returns False if another one is training in it."""
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        make_folder(self.path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            raise OSError(errno.ENOTSUP, "Files cannot be locked there, as runs need", str(self.path)) from None
        for folder in (self.path, self.path / "checkpoints"):
            remove_parts(folder)
        return True

    def check_in_place(self) -> None:
        """Raises FileNotFoundError if the folder was removed or renamed since it was locked."""
        if not (self.path / ".lock").exists():
            what = "The run folder was removed or renamed during the run"
            raise FileNotFoundError(errno.ENOENT, what, str(self.path))

    def unlock(self) -> None:
        """Releases the folder, and removes it if it was made for nothing."""
        if self._lock.is_locked:
            self._lock.release()
        if self._made and self.is_free:
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # until one that holds something else
                for folder in self._made:
                    folder.rmdir()

    def write_config(self, config: Config) -> None:
        write_atomically(self.config_path, yaml.safe_dump(config, sort_keys=False).encode())

    def clear(self, config: Config | None) -> None:
        """Undoes what the start of a run wrote, after it was refused; `config` is that of an unfinished run that was there."""
        if config is not None:
            self.write_config(config)
        else:
            self.config_path.unlink(missing_ok=True)
            self.remove_events()

    def remove_events(self) -> None:
        """Removes the event files, which a resumed run writes again from its history."""
        for path in self.path.glob(f"{EVENT_FILE}.*"):
            with suppress(OSError):
                path.unlink()


def claim_run_folder(parent: Path, config: Config) -> RunFolder:
    """Claims the folder of a run that was not given one: that of its own unfinished run, or else the next free version.

    Args:
        parent: `logs/<configuration>`.
        config: The resolved configuration; an unfinished run is the same one if its configuration is equal.
    """
    version = 0
    while True:
        folder = RunFolder(parent / f"version_{version}")
        # looked at again under the lock: another process may have finished the run or taken the folder since
        if folder.is_open_to(config) and folder.lock():
            if folder.is_open_to(config):
                return folder
            folder.unlock()
        version += 1
