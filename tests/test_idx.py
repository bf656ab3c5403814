from pathlib import Path

import pytest
import torch

from lit_mnist.datasets.idx import decode_idx, read_idx

BYTES = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])


def test_bytes_are_read_in_the_shape_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "some-idx2-ubyte"
    path.write_bytes(BYTES)
    expected = torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8)
    assert torch.equal(read_idx(path), expected)
    assert read_idx(path).dtype == torch.uint8


@pytest.mark.parametrize(
    ("code", "content", "expected"),
    [
        (0x09, bytes([0xFF, 0x7F]), torch.tensor([-1, 127], dtype=torch.int8)),
        (0x0B, bytes([1, 0, 0xFF, 0xFE]), torch.tensor([256, -2], dtype=torch.int16)),
        (0x0C, bytes([0, 0, 1, 2, 0xFF, 0xFF, 0xFF, 0xFF]), torch.tensor([258, -1], dtype=torch.int32)),
        (0x0D, bytes([0x3F, 0x80, 0, 0, 0xC0, 0, 0, 0]), torch.tensor([1.0, -2.0])),
        (0x0E, bytes([0x3F, 0xF0, *[0] * 6, 0xC0, *[0] * 7]), torch.tensor([1.0, -2.0], dtype=torch.float64)),
    ],
)
def test_values_of_several_bytes_are_big_endian(code: int, content: bytes, expected: torch.Tensor) -> None:
    values = decode_idx(bytes([0, 0, code, 1, 0, 0, 0, 2]) + content)
    assert values.dtype == expected.dtype
    assert torch.equal(values, expected)


def test_a_file_without_elements_is_an_empty_tensor() -> None:
    values = decode_idx(bytes([0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]))
    assert (values.shape, values.dtype) == ((0, 28, 28), torch.uint8)


@pytest.mark.parametrize("length", range(len(BYTES)))
def test_every_truncation_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(BYTES[:length])
    with pytest.raises(ValueError, match=rf"^{path} .*\.$"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (BYTES + b"\0", "has 19 bytes where its header promises 18"),
        (b"\x1f\x8b\x08\0rest", "is compressed by gzip"),
        (b"<!DOCTYPE html><html>", "is not an IDX file"),
        (bytes([1, 0, 8, 1, 0, 0, 0, 0]), "is not an IDX file"),
        (bytes([0, 0, 7, 1, 0, 0, 0, 0]), "is not an IDX file"),
        (bytes([0, 0, 8, 0]), "is not an IDX file"),
        (bytes([0, 0, 8, 255]) + b"\xff" * 1020, "is not an IDX file"),
        (bytes([0, 0, 14, 8]) + b"\xff" * 32, "has 36 bytes where its header promises"),
    ],
)
def test_what_is_no_idx_file_is_refused_with_its_fault(content: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode_idx(content)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing is missing\.$"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\)\.$"):
        read_idx(tmp_path)
