"""The command line: finds the command, imports what it needs and no more, and turns mistakes into one sentence."""

import io
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

from lit_mnist import __version__
from lit_mnist.cli import BAD_INPUT, DONE, FAILED, INTERRUPTED, as_typed
from lit_mnist.record.printable import one_line
from lit_mnist.training.signals import Stopped, stopping_on_signals

COMMANDS = {
    "fit": ("lit_mnist.cli.fit:main", "train a network and record the run"),
    "validate": ("lit_mnist.cli.evaluate:validate", "measure a trained network on the images held out of training"),
    "test": ("lit_mnist.cli.evaluate:test", "measure a trained network on the test images, and draw its mistakes"),
    "predict": ("lit_mnist.predict.command:main", "classify your own pictures"),
    "study": ("lit_mnist.study:main", "run many configurations with several seeds each"),
    "report": ("lit_mnist.report:main", "say what the runs of a study show, with figures and tables"),
    "explain": ("lit_mnist.insight:main", "say why a run failed, or what limits one that trained"),
    "compare": ("lit_mnist.report.compare:main", "show what differs between two runs"),
    "export": ("lit_mnist.predict.export:main", "write a trained network as ONNX or safetensors"),
}

# Errors of the file system that end a command with the exit code of a mistake.
USERS_MISTAKES = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)

# The command <- what people type for it.
SYNONYMS = {"fit": "train run resume", "test": "eval evaluate", "study": "sweep", "report": "plot"}

USAGE = "\n".join(
    [
        "usage: lit_mnist COMMAND [options]     (lit_mnist COMMAND --help for the options)",
        "",
        *(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items()),
        "",
        "  lit_mnist fit --config lr0.1          the published network: 20 epochs, about a minute",
        "  tensorboard --logdir logs             its curves",
        "",
        "exit codes: 0 done, 2 bad input, 3 the training loss diverged, 130 Ctrl-C, 143 SIGTERM, 1 anything else",
    ]
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: Command line without the program's name; None: the process's own.

    Returns:
        The exit code: 0 done, 2 bad input, 3 diverged, 130 Ctrl-C, 143 SIGTERM, 1 anything else.
    """
    if args is None:
        _prepare_streams()
    command, *options = [*(sys.argv[1:] if args is None else args)] or [""]
    if command in ("", "-h", "--help", "help"):
        print(USAGE)
        return DONE if command else BAD_INPUT
    if command in ("-V", "--version"):
        print(f"lit_mnist {__version__}")
        return DONE
    if command.startswith("-"):
        return _complain(f"write the command before {command}: lit_mnist fit {shlex.join([command, *options])}", BAD_INPUT)
    if command not in COMMANDS:
        near = [name for name, words in SYNONYMS.items() if command in words.split()] + get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        return _complain(f"there is no command {command}; {hint}", BAD_INPUT)
    try:
        return _run(command, options)
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except ImportError as missing:
        return _complain(f"{missing}; install the package again: pip install lit_mnist.", FAILED)
    except ValueError as mistake:
        return _complain(str(mistake), BAD_INPUT)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except OSError as error:
        code = BAD_INPUT if isinstance(error, USERS_MISTAKES) else FAILED
        return _complain(f"{error.filename or ''}: {error.strerror or error}.".lstrip(": "), code)


def _run(command: str, options: Sequence[str]) -> int:
    if command == "fit":
        _announce(options)
    module, function = COMMANDS[command][0].split(":")
    with stopping_on_signals():
        act = getattr(import_module(module), function)
        with quiet():
            code: int = act(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk is still reported
    return code


def _prepare_streams() -> None:
    """Opens a null device for each closed standard stream, whose number the next file to be opened would get otherwise."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be what no encoding holds


def _announce(options: Sequence[str]) -> None:
    """Says where a run's record goes, before the imports that take seconds; refuses a configuration that does not exist."""
    given = as_typed(options)
    config = given.get("--config", given.get("-c", ""))
    if config:
        from lit_mnist.record.configs import find_config  # and so YAML, which other commands may not need

        config = find_config(config).stem
    elsewhere = {"--help", "-h", "--print_config", "--ckpt_path"}  # where a named run goes on is seen later
    if elsewhere & given.keys() or "LOCAL_RANK" in os.environ:
        return
    name = given.get("--name") or config or "unnamed"
    run_dir = given.get("--run_dir")
    place, logs = (f"into {run_dir}", shlex.quote(run_dir)) if run_dir else (f"below logs/{name}", "logs")
    sentence = f"training {name}; its record goes {place} (look at it: tensorboard --logdir {logs})"
    print(one_line(sentence), flush=True)


def _complain(sentence: str, code: int) -> int:
    print(f"lit_mnist: {one_line(' '.join(sentence.split()))}", file=sys.stderr)
    return code


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what the libraries below say to each other's developers; what concerns the run, we say."""
    # jsonargparse complains of calls that Lightning makes; an environment variable is the only way to stop it
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]  # which advertise at INFO
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
        warnings.filterwarnings("ignore", "The number of training batches")  # blocks, here
        warnings.filterwarnings("ignore", "Total length of")  # no image is held out for validation
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # where a profiler reports
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
