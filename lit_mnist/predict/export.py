"""The command `export`: writes a trained network for use without this package, as ONNX or as safetensors."""

import json
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist import __version__
from lit_mnist.cli import DONE, Parser
from lit_mnist.record.atomic import check_writable, write_atomically

if TYPE_CHECKING:
    from lit_mnist.record.checkpoint import TrainedNetwork

# packages, by suffix; the extra that brings them has the suffix's name
NEEDED = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".safetensors": ("safetensors",)}
OPSET = 18  # of ONNX, December 2022; torch's exporter starts from this one
TOLERANCE = 1e-4  # as a share of the largest logit; the two runtimes add in different orders


def main(args: list[str]) -> int:
    """Runs the command `export`.

    Raises:
        ValueError: Another suffix, a package that is not installed, an unusable checkpoint, a file there that is something
            else, or one made that does not compute what the network does.
        OSError: The file cannot be written.
    """
    options = _parser().parse_args(args)
    run, target = options.run or options.ckpt_path, Path(options.to)
    if target.suffix not in NEEDED:
        raise ValueError(f"--to {target}: the name must end in {' or '.join(NEEDED)}.")
    if not run:
        raise ValueError(
            f"export needs a run folder or a checkpoint file: lit_mnist export logs/lr0.1/version_0 --to {target}."
        )
    missing = [package for package in NEEDED[target.suffix] if find_spec(package) is None]
    if missing:
        extra = f'pip install "lit_mnist[{target.suffix[1:]}]"'
        raise ValueError(f"--to {target} needs packages that are not installed, {', '.join(missing)}: {extra}.")
    check_writable(target)
    if target.is_file() and b"lit_mnist " not in target.read_bytes():  # stands before the version in each file of ours
        raise ValueError(f"{target} exists and is not an earlier export; choose another --to.")
    from lit_mnist.record.checkpoint import load_network  # torch: after what is refused without it

    network = load_network(Path(run))
    content, sentence = (onnx_content if target.suffix == ".onnx" else safetensors_content)(network)
    write_atomically(target, content)
    print(f"{target}: {sentence}")
    return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="lit_mnist export",
        description="Writes a trained network as one file. Input: images (N, 1, height, width) float32 in [0, 1]. Output: "
        "logits. An ONNX file is compared with the network before it gets its name.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument("--ckpt_path", metavar="RUN", help="the same as an option")
    what = "model.onnx or model.safetensors, described in its metadata; an earlier export is replaced"
    parser.add_argument("--to", required=True, metavar="FILE", help=what)
    return parser


def _description(network: "TrainedNetwork") -> dict[str, Any]:
    height, width = network.mlp.image_shape
    size = f"(N, 1, {height}, {width})"
    return {
        "architecture": "MLP",
        **network.mlp.config(),
        "activation": "relu",
        "input": f"images {size} float32 in [0, 1]: 0 background, 1 ink (the grey level / 255), not normalised",
        "output": f"logits (N, {network.mlp.classes}) float32: unnormalised log-probabilities of the classes",
        "dataset": network.dataset,
        "class_names": list(network.class_names),
        "written_by": f"lit_mnist {__version__}",
    }


def onnx_content(network: "TrainedNetwork") -> tuple[bytes, str]:
    """Translates the network into an ONNX file for any number of images, checked by onnxruntime.

    Returns:
        The file's content, with input, output and classes described in its metadata; and a sentence about the check.

    Raises:
        ValueError: The file computes something else than the network.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses what torch itself deprecates
        program = torch.onnx.export(
            network.mlp.eval(),
            (torch.zeros(2, 1, *network.mlp.image_shape),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model, description = program.model_proto, _description(network)
    model.doc_string = f"Multilayer perceptron. Input: {description['input']}. Output: {description['output']}."
    del model.metadata_props[:]
    for key, value in description.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # the exporter's notes: stack traces with the paths of this machine
        part.doc_string = ""
    content: bytes = model.SerializeToString()
    return content, _compare(network, content)


def _compare(network: "TrainedNetwork", content: bytes) -> str:
    """Runs an ONNX file's content and the network on 1,000 random images, and says in a sentence how they agree."""
    import numpy as np
    import torch

    onnxruntime = import_module("onnxruntime")  # it has no type hints
    images = torch.rand(1000, 1, *network.mlp.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network.mlp(images).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(["logits"], {"images": images.numpy()})
    difference = float(np.abs(theirs - logits).max())
    same = int((theirs.argmax(1) == logits.argmax(1)).sum())
    if same < len(images) or not difference <= TOLERANCE * float(np.abs(logits).max()):
        raise ValueError(
            f"the ONNX file was not written: on {len(images) - same:,} of {len(images):,} random images it would give another "
            f"class than the network, and a logit differs by {difference:.2g}."
        )
    return f"same class as the network on all {len(images):,} random images; largest difference of a logit {difference:.2g}."


def safetensors_content(network: "TrainedNetwork") -> tuple[bytes, str]:
    """The weights as a safetensors file, with their description in its metadata; and a sentence about them."""
    from safetensors.torch import save

    weights = {name: weight.clone() for name, weight in network.mlp.state_dict().items()}  # a checkpoint's may share memory
    content = save(weights, metadata={"description": json.dumps(_description(network))})  # one entry: their order is random
    return content, f"{sum(weight.numel() for weight in weights.values()):,} weights and biases, bit for bit."
