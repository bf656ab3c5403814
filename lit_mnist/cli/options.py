"""Options as they are typed: parsed with one sentence for a mistake, shipped configurations found by their names."""

import re
from typing import NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from lit_mnist.record.configs import find_config, read_config


class OptionParser(LightningArgumentParser):
    """Reports a mistake as one sentence instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(_one_sentence(message))


def _one_sentence(message: str) -> str:
    """What jsonargparse says over many lines, on one: the option, what it takes, what it got."""
    text = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).split())
    text = text.replace("typing.", "").replace("NoneType", "null")
    option = re.match(r'Parser key "([^"]+)": ?', text)
    name, text = (f"--{option[1]}: ", text[option.end() :]) if option else ("", text)
    expected = list(dict.fromkeys(re.findall(r"[Ee]xpected an? ([\w\[\]', ]+?)(?:\.| - | Given|$)", text)))
    value = re.search(r"(?:Given|Got) value: (.*)$", text)
    if expected and value:
        text = f"expected {' or '.join(expected)}, not {value[1]}."
    return (name + text).rstrip(".") + "."


def with_configs_found(options: list[str]) -> list[str]:
    """Replaces the names of shipped configurations by their files."""
    found, is_config = [], False
    for option in options:
        name, equals, value = option.partition("=")
        if is_config:
            option = _found(option)
        elif equals and name in ("--config", "-c"):
            option = f"{name}={_found(value)}"
        is_config = option in ("--config", "-c")
        found.append(option)
    return found


def _found(config: str) -> str:
    path = find_config(config)
    read_config(path)  # names the file that holds no options, which the parser does not
    return str(path)


def without(options: list[str], *names: str) -> list[str]:
    """The options less those named and their values."""
    kept, skip = [], False
    for option in options:
        if not skip and option.split("=")[0] not in names:
            kept.append(option)
        skip = not skip and option in names
    return kept
