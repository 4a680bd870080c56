"""Find, download and read the files of Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ADDRESS = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Files of the original distribution, which Debian compressed anew: for checking what was downloaded."""

DOWNLOAD_TIMEOUT_SECONDS = 20
UNSIGNED_BYTES = b"\0\0\x08"


def find(data_dir: Path | None) -> Path:
    """Return a folder that holds the four files, downloading them where there is none.

    Looks in `data_dir`, in the folder that the environment variable APPROX_IS_DATA names, where the Debian package puts
    them, and in the cache of an earlier download.

    Raises:
        FileNotFoundError: there is none, and the download failed.
    """
    named = [data_dir, os.environ.get("APPROX_IS_DATA")]
    parents = [Path(folder) for folder in named if folder]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "approx_is" / "fashion-mnist"
    for folder in [*(path for parent in parents for path in (parent, parent / "fashion-mnist")), DEBIAN_FOLDER, cache]:
        if all((folder / name).is_file() for name in MD5):
            return folder
    try:
        download(cache)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            "Fashion-MNIST is not on this machine. Get it with `apt-get install dataset-fashion-mnist`, or pass the "
            f"folder of its four .gz files as --data-dir (the download failed: {error})."
        ) from error
    return cache


def download(folder: Path) -> None:
    """Download the four files into `folder`.

    Raises:
        OSError: a file could not be fetched or stored.
        ValueError: a file is not the published one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in MD5.items():
        with urllib.request.urlopen(f"{ADDRESS}/{name}", timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            content = response.read()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise ValueError(f"{name} is not the published file")
        unfinished = folder / f"{name}.{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.replace(folder / name)


def read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images, float32 [N, 1, 28, 28] in [0, 1], and labels, int64 [N], of `split`: "train" or "t10k"."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return (images.float() / 255).unsqueeze(1), labels.long()


def read_idx(path: Path) -> Tensor:
    """Return the array of unsigned bytes in a gzipped IDX file, uint8.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        return _parse_idx(gzip.decompress(path.read_bytes()))
    except (ValueError, EOFError, struct.error, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). Get it anew.") from error


def _parse_idx(content: bytes) -> Tensor:
    kind, dimensions = struct.unpack_from(">3sB", content)
    if kind != UNSIGNED_BYTES:
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
