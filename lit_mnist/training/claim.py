"""The folder that a run works in, locked, and the checkpoint that it begins with."""

from contextlib import ExitStack
from pathlib import Path

from lit_mnist.record.checkpoint import mapping_in, whole_checkpoints
from lit_mnist.record.folder import Config, RunFolder, claim_run_folder

LOGS = Path("logs")


def claim(config: Config, run_dir: str, ckpt_path: str | None, leaving: ExitStack) -> list[str | None]:
    """Locks the folder to work in until `leaving`, and finds the checkpoint to begin with.

    Args:
        config: The resolved configuration, by which its unfinished run is recognised.
        run_dir: Folder asked for; empty: the run's own unfinished one, or the next free one below `logs/`.
        ckpt_path: Run folder or checkpoint asked for, or "last".
        leaving: Gets a callback that unlocks the folder.

    Returns:
        The folder, and the checkpoint or None.

    Raises:
        ValueError: The folder belongs to another process, a finished run or something else; or there is no such checkpoint.
    """
    start = None if ckpt_path in (None, "last") else _find_start(Path(str(ckpt_path)))
    parent = LOGS / config["name"]
    named = run_dir or _folder_to_resume(ckpt_path, parent)
    folder = _lock(named) if named else claim_run_folder(parent, config)
    leaving.callback(folder.unlock)
    elsewhere = start is None or start.parent.parent.resolve() != folder.path.resolve()
    if elsewhere and folder.checkpoints:  # the same command resumes from where it has got to, not from where it began
        start = _find_start(folder.path)
    return [str(folder.path), str(start) if start else None]


def _find_start(run_or_file: Path) -> Path | None:
    """Finds the newest whole checkpoint at which the run was not over; None if it was over after its first epoch.

    No file ends a run: where a callback had ended it, the last epoch is trained again, and the callback decides again.
    """
    for path, saved in whole_checkpoints(run_or_file):
        if path == run_or_file or not mapping_in(saved, "callbacks", "Recorder", "history").get("stopped"):
            return path
    return None


def _lock(named: str) -> RunFolder:
    folder = RunFolder(Path(named))
    if not folder.is_finished and not folder.lock():
        raise ValueError(f"{named}: another process is training there; wait for it, or choose another --run_dir.")
    fault = ""
    if folder.is_finished:  # perhaps by another process, just before it was locked
        fault = "holds a finished run; choose another --run_dir, or remove the folder"
    elif folder.is_foreign:
        fault = "holds the files of something else; choose another --run_dir"
    if fault:
        folder.unlock()
        raise ValueError(f"{named} {fault}.")
    return folder


def _folder_to_resume(ckpt_path: str | None, parent: Path) -> str | None:
    """Returns the folder of the unfinished run that `--ckpt_path` names; None if it names something else, or nothing."""
    if ckpt_path == "last":
        unfinished = [run for path in parent.glob("*") if (run := RunFolder(path)).checkpoints and not run.is_finished]
        if not unfinished:
            raise ValueError(f"--ckpt_path last: {parent} holds no unfinished run with a checkpoint.")
        return str(max(unfinished, key=lambda run: run.checkpoints[0].stat().st_mtime).path)
    named = RunFolder(Path(ckpt_path)) if ckpt_path else None
    return ckpt_path if named and named.checkpoints and not named.is_finished else None
