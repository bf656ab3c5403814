"""The folder of one run: where it is, whether it is finished, who is working in it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lit_mnist.record.atomic import is_part, remove_parts, write_durably
from lit_mnist.record.checkpoint import list_checkpoints
from lit_mnist.record.configs import NOT_YAML

Config = dict[str, Any]


class RunFolder:
    """`logs/<config name>/<version>/`, the record of one run.

    Attributes:
        path: The folder; it need not exist yet.
        config_path: The resolved configuration.
        result_path: Written last: there if and only if the run is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.result_path = path / "result.json"
        self._lock = FileLock(path / ".lock")
        self._made: list[Path] = []  # folders that `lock` made, innermost first

    def __reduce__(self) -> tuple[Any, ...]:
        return RunFolder, (self.path,)  # the other processes of a run learn its folder, and hold no lock

    @property
    def is_finished(self) -> bool:
        return self.result_path.exists()

    @property
    def is_free(self) -> bool:
        """Nothing lies in it that could be lost."""
        return not self.path.exists() or all(child.name == ".lock" or is_part(child) for child in self.path.iterdir())

    @property
    def is_foreign(self) -> bool:
        """Something else than a run of ours wrote files here that a run would overwrite or remove."""
        ours = self.config is not None or bool(list_checkpoints(self.path))
        return not ours and (self.config_path.exists() or any(self.path.glob("events.out.tfevents.*")))

    @property
    def config(self) -> Config | None:
        """The configuration that the run was started with; None where there is none to be read."""
        try:
            config = yaml.safe_load(self.config_path.read_text())
        except (OSError, *NOT_YAML):
            return None
        return config if isinstance(config, dict) and {"model", "data", "trainer"} <= set(config) else None

    def is_open_to(self, config: Config) -> bool:
        """Whether a run with this configuration may begin or go on here."""
        return self.is_free or (not self.is_finished and self.config == config)

    def lock(self) -> bool:
        """Claims the folder for this process, until it ends. False if another one is training in it."""
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        for folder in (self.path, self.path / "checkpoints"):
            remove_parts(folder)
        return True

    def unlock(self) -> None:
        """Gives the folder back, and removes it if it was made for nothing."""
        if self._lock.is_locked:
            self._lock.release()
        if self._made and self.is_free:
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # until one that something else lies in
                for folder in self._made:
                    folder.rmdir()

    def checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step={step:08d}.ckpt"

    def clear(self) -> None:
        """Takes back what the start of a run wrote, after it was refused."""
        self.config_path.unlink(missing_ok=True)
        for path in self.path.glob("events.out.tfevents.*"):
            path.unlink()

    def write_config(self, config: Config) -> None:
        write_durably(self.config_path, yaml.safe_dump(config, sort_keys=False).encode())

    def write_result(self, result: Config) -> None:
        """Finishes the run. Only finite numbers get this far: JSON knows no others."""
        write_durably(self.result_path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def claim_run_folder(parent: Path, config: Config) -> RunFolder:
    """The folder for a run that was not given one: its own unfinished one to go on in, or else the next free version.

    Args:
        parent: `logs/<config name>`.
        config: The run's resolved configuration; an unfinished run is the same one if its configuration is equal.
    """
    version = 0
    while True:
        folder = RunFolder(parent / f"version_{version}")
        # looked at again under the lock: meanwhile another process may have finished the run or made the folder its own
        if folder.is_open_to(config) and folder.lock():
            if folder.is_open_to(config):
                return folder
            folder.unlock()
        version += 1
