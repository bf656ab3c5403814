"""The command line: finds the command, imports what it needs and no more, and turns mistakes into one sentence."""

import sys
from collections.abc import Sequence
from importlib import import_module

from lit_mnist import __version__
from lit_mnist.cli.command import BAD_INPUT, DONE, FAILED, INTERRUPTED
from lit_mnist.training.signals import Stopped, stopping_on_signals

COMMANDS = {
    "fit": ("lit_mnist.cli.fit:fit", "train a network and record the run"),
    "validate": ("lit_mnist.cli.fit:validate", "measure a trained network on the images held out of training"),
    "test": ("lit_mnist.cli.fit:test", "measure a trained network on the test images, and draw its mistakes"),
    "predict": ("lit_mnist.predict.predict:main", "tell the digits in your own pictures"),
    "study": ("lit_mnist.study:main", "run many configurations with several seeds each"),
    "report": ("lit_mnist.report:main", "turn the runs of a study into tables, figures and findings"),
    "export": ("lit_mnist.predict.export:main", "write a trained network as ONNX or safetensors"),
}

USAGE = "\n".join(
    [
        "usage: lit_mnist COMMAND [options]     (lit_mnist COMMAND --help for the options)",
        "",
        *(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items()),
        "",
        "  lit_mnist fit --config lr0.1          the published network: 20 epochs, about two minutes",
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
    arguments = list(sys.argv[1:] if args is None else args)
    command, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("", "-h", "--help", "help"):
        print(USAGE)
        return DONE if command else BAD_INPUT
    if command in ("-V", "--version"):
        print(f"lit_mnist {__version__}")
        return DONE
    if command not in COMMANDS:
        return _complain(f"there is no command {command}; there are {', '.join(COMMANDS)}.", BAD_INPUT)
    module, function = COMMANDS[command][0].split(":")
    try:
        with stopping_on_signals():
            code: int = getattr(import_module(module), function)(options)
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except ValueError as mistake:
        return _complain(str(mistake), BAD_INPUT)
    except (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as mistake:
        return _complain(f"{mistake.filename}: {mistake.strerror}.", BAD_INPUT)
    except OSError as failure:
        return _complain(f"{failure.filename or ''}: {failure.strerror or failure}.".lstrip(": "), FAILED)
    return code


def _complain(sentence: str, code: int) -> int:
    print(f"lit_mnist: {sentence}", file=sys.stderr)
    return code
