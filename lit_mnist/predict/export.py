"""The command `export`: writes a trained network for use without this package, as ONNX or as safetensors."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist import __version__
from lit_mnist.cli.command import DONE, Parser
from lit_mnist.record.atomic import write_durably

if TYPE_CHECKING:
    from lit_mnist.mlp import MLP

# packages, by suffix; the extra that brings them is called like the suffix
NEEDED = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".safetensors": ("safetensors",)}
INPUT = "images (N, 1, 28, 28) float32 in [0, 1]: 0 background, 1 ink (the grey level / 255), not normalised"
OUTPUT = "logits (N, 10) float32: unnormalised log-probabilities of the classes"
OPSET = 18  # of ONNX, December 2022; torch's exporter starts from this one
TOLERANCE = 1e-4  # as a share of the largest logit; the two runtimes add in different orders


def main(args: list[str]) -> int:
    """The command `export`.

    Raises:
        ValueError: Another suffix, a package that is not installed, an unusable checkpoint, a file that
            cannot be written, or one that does not compute what the network does.
    """
    options = _parser().parse_args(args)
    target = Path(options.to)
    if target.suffix not in NEEDED:
        raise ValueError(f"--to {target}: the name must end in {' or '.join(NEEDED)}.")
    missing = [package for package in NEEDED[target.suffix] if find_spec(package) is None]
    if missing:
        extra = f'pip install "lit_mnist[{target.suffix[1:]}]"'
        raise ValueError(f"--to {target} needs packages that are not installed, {', '.join(missing)}: {extra}.")
    if target.is_dir():
        raise ValueError(f"--to {target} is a folder; name a file in it.")
    from lit_mnist.datasets.files import DEFAULT_ROOT
    from lit_mnist.record.checkpoint import data_of, find_checkpoint, load_mlp

    checkpoint = find_checkpoint(Path(options.ckpt_path))
    network, dataset = load_mlp(checkpoint), data_of(checkpoint).get("dataset", "MNIST")
    root = Path(options.root).expanduser() if options.root else DEFAULT_ROOT
    try:
        if target.suffix == ".onnx":
            print(export_onnx(network, dataset, target, root))
        else:
            print(export_safetensors(network, dataset, target))
    except OSError as fault:
        raise ValueError(f"--to {target} cannot be written: {fault.strerror or fault}.") from None
    return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="lit_mnist export",
        description="Writes a trained network as one file. An ONNX file is compared with the network on the "
        "10,000 test images before it gets its name.",
        epilog=f"input of the file: {INPUT}. Output: {OUTPUT}.",
    )
    parser.add_argument("--ckpt_path", required=True, metavar="RUN_OR_FILE", help="run folder or checkpoint file")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="model.onnx, or model.safetensors (its description goes into model.json beside it); replaced if it exists",
    )
    parser.add_argument("--root", metavar="DIR", help="folder of the data sets (default: the user's cache folder)")
    return parser


def export_onnx(network: "MLP", dataset: str, target: Path, root: Path) -> str:
    """Writes the network as an ONNX file for any number of images, checked by onnxruntime.

    Args:
        network: On the CPU.
        dataset: What it was trained on; with its test images it is compared.
        target: Written whole or not at all. Input, output and classes are described in its metadata.
        root: The folder of the data sets.

    Returns:
        A sentence about the comparison of the file with the network.

    Raises:
        ValueError: On some test image the file and the network differ, or those images cannot be had.
        OSError: The file cannot be written.
    """
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses what torch itself deprecates
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, 28, 28),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.doc_string = f"Multilayer perceptron on {dataset}. Input: {INPUT}. Output: {OUTPUT}."
    del model.metadata_props[:]
    for key, value in _description(network, dataset).items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # the exporter's notes: stack traces with the paths of this machine
        part.doc_string = ""
    content: bytes = model.SerializeToString()
    sentence = _compare(network, dataset, content, target, root)
    write_durably(target, content)
    return sentence


def export_safetensors(network: "MLP", dataset: str, target: Path) -> str:
    """Writes the weights as a safetensors file, and what they are the weights of as JSON beside it.

    Args:
        network: On the CPU.
        dataset: What it was trained on.
        target: Written whole or not at all, after `<stem>.json`.

    Returns:
        A sentence about what was written.

    Raises:
        ValueError: `<stem>.json` is there, and is none that an export wrote. Nothing was written.
        OSError: A file cannot be written.
    """
    import torch
    from safetensors.torch import load, save

    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    description = json.dumps(_description(network, dataset), indent=1) + "\n"
    content = save(weights, metadata={"description": description})  # one entry: their order would be random
    read_back = load(content)
    assert all(torch.equal(read_back[name], weight) for name, weight in weights.items())
    beside = target.with_suffix(".json")
    if beside.exists() and not _is_description(beside):
        raise ValueError(f"{beside}, where the description would go, holds something else; choose another --to.")
    write_durably(beside, description.encode())
    write_durably(target, content)
    count = sum(weight.numel() for weight in weights.values())
    return f"{target}: {count:,} weights and biases, read back bit for bit; described in {beside}."


def _description(network: "MLP", dataset: str) -> dict[str, Any]:
    from lit_mnist.datasets.registry import find

    return {
        "architecture": "MLP",
        "hidden": list(network.hidden),
        "activation": "relu",
        "input": INPUT,
        "output": OUTPUT,
        "dataset": dataset,
        "classes": list(find(dataset).classes),
        "written_by": f"lit_mnist {__version__}",
    }


def _is_description(file: Path) -> bool:
    try:
        return str(json.loads(file.read_bytes())["written_by"]).startswith("lit_mnist ")
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _compare(network: "MLP", dataset: str, content: bytes, target: Path, root: Path) -> str:
    """Runs an ONNX file's content and the network on the 10,000 test images.

    Raises:
        ValueError: They differ; `target` is named.
    """
    import numpy as np
    import torch

    from lit_mnist.datasets.files import load, prepare

    onnxruntime = import_module("onnxruntime")  # it has no type hints
    prepare(dataset, root)
    images = load(dataset, root, "test")[0].unsqueeze(1).float() / 255
    with torch.inference_mode():
        logits = network(images).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(["logits"], {"images": images.numpy()})
    difference = float(np.abs(theirs - logits).max())
    same = int((theirs.argmax(1) == logits.argmax(1)).sum())
    if same < len(images) or not difference <= TOLERANCE * float(np.abs(logits).max()):
        raise ValueError(
            f"{target} was not written: on {len(images) - same:,} of {len(images):,} test images of {dataset} it would "
            f"give another class than the network, and a logit differs by {difference:.2g}."
        )
    return (
        f"{target}: same class as the network on all {len(images):,} test images of {dataset}; "
        f"largest difference of a logit {difference:.2g}."
    )
