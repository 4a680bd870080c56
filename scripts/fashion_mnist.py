"""Find and download the files of Fashion-MNIST, which are of the same format as those of MNIST."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from data_files import candidate_folders
from idx import holds_splits

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


def find(data_dir: Path | None) -> Path:
    """Return a folder that holds the four files, downloading them where there is none.

    Looks in `data_dir`, in the folder that the environment variable APPROX_IS_DATA names (in each itself, in
    `fashion-mnist` and in `FashionMNIST/raw`, where torchvision puts them), where the Debian package puts them, and in
    the cache of an earlier download.

    Raises:
        FileNotFoundError: there is none, and the download failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "approx_is" / "fashion-mnist"
    for folder in [*candidate_folders(data_dir, "fashion-mnist", "FashionMNIST/raw"), DEBIAN_FOLDER, cache]:
        if holds_splits(folder):
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
