"""Read IDX files, the format of MNIST and of what is made like it."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_files import candidate_folders, first_folder

__all__ = ["find_mnist", "holds_splits", "read_idx", "read_split"]

UNSIGNED_BYTES = b"\0\0\x08"
SPLITS = ("train", "t10k")
PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def find_mnist(data_dir: Path | None) -> Path:
    """Return the folder that holds the four files of MNIST, gzipped or not.

    Looks in `data_dir` and in the folder that the environment variable APPROX_IS_DATA names: in each itself, in `mnist`
    and in `MNIST/raw`, where torchvision puts them.

    Raises:
        FileNotFoundError: there is none.
    """
    return first_folder(
        candidate_folders(data_dir, "mnist", "MNIST/raw"),
        holds_splits,
        missing="MNIST is not on this machine. Get it with `torchvision.datasets.MNIST(DIR, download=True)`, or its "
        "four IDX files from anywhere, and pass their folder DIR as --data-dir.",
    )


def holds_splits(folder: Path) -> bool:
    """Return whether the folder holds the four files, images and labels of either split."""
    return all(_path(folder, split, part).is_file() for split in SPLITS for part in PARTS)


def read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images, float32 [N, 1, H, W] in [0, 1], and labels, int64 [N], of `split`: "train" or "t10k".

    Raises:
        ValueError: a file is damaged, or there are not as many labels as images.
    """
    images, labels = (read_idx(_path(folder, split, part)) for part in PARTS)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"{folder} is damaged ({split}: images {list(images.shape)}, labels {list(labels.shape)}).")
    return (images.float() / 255).unsqueeze(1), labels.long()


def read_idx(path: Path) -> Tensor:
    """Return the array of unsigned bytes in an IDX file, uint8; it is unpacked first if its name ends in `.gz`.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        content = path.read_bytes()
        return _parse(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (ValueError, EOFError, struct.error, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). Get it anew.") from error


def _path(folder: Path, split: str, part: str) -> Path:
    plain = folder / f"{split}-{part}"
    return plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")


def _parse(content: bytes) -> Tensor:
    kind, dimensions = struct.unpack_from(">3sB", content)
    if kind != UNSIGNED_BYTES:
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
