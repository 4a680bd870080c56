"""Find and read CIFAR-10 and CIFAR-100 as they are published: pickles for Python, in a folder or in their archive."""

from __future__ import annotations

import io
import math
import pickle
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_files import candidate_folders, first_folder

__all__ = ["CIFAR_10", "CIFAR_100", "Cifar", "find", "load_plain", "read"]

SHAPE = (3, 32, 32)
ADDRESS = "https://www.cs.toronto.edu/~kriz"

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Cifar:
    """How one of the two is laid out.

    Attributes:
        title: its name.
        folder: that its archive holds.
        archive: in which it is published.
        files: names of the files of the training and of the test samples.
        meta: name of the file with the names of the classes.
        labels: under which name a file holds the labels.
        names: under which name `meta` holds the names of the classes.
    """

    title: str
    folder: str
    archive: str
    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels: str
    names: str

    @property
    def all_files(self) -> list[str]:
        """Names of all files."""
        return [self.meta, *(name for names in self.files.values() for name in names)]


CIFAR_10 = Cifar(
    "CIFAR-10",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    labels="labels",
    names="label_names",
)
CIFAR_100 = Cifar(
    "CIFAR-100",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    {"train": ("train",), "test": ("test",)},
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
)


def find(cifar: Cifar, data_dir: Path | None) -> Path:
    """Return the folder that holds the files, or the archive that does.

    Looks in `data_dir` and in the folder that the environment variable APPROX_IS_DATA names.

    Raises:
        FileNotFoundError: there is neither.
    """
    folder = first_folder(
        candidate_folders(data_dir, cifar.folder),
        lambda path: all((path / name).is_file() for name in cifar.all_files) or (path / cifar.archive).is_file(),
        missing=f"{cifar.title} is not on this machine. Get {ADDRESS}/{cifar.archive} and pass its folder as "
        "--data-dir; it need not be unpacked.",
    )
    return folder if (folder / cifar.meta).is_file() else folder / cifar.archive


def read(cifar: Cifar, path: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Return the training samples, the test samples and the names of the classes, in the order of the labels.

    Args:
        cifar: which of the two.
        path: from `find`.

    Returns:
        Twice images, float32 [N, 3, 32, 32] in [0, 1], and labels, int64 [N]; and the names.

    Raises:
        ValueError: a file is damaged, or something else.
    """
    contents = _contents(cifar, path)
    train, test = (_samples(cifar, [contents[name] for name in cifar.files[split]]) for split in ("train", "test"))
    return train, test, tuple(name.decode() for name in _field(contents[cifar.meta], cifar.names))


def _contents(cifar: Cifar, path: Path) -> dict[str, Any]:
    """Return what is in the files, by their names; an archive is read once."""
    contents = {}
    try:
        for name, content in _archived(cifar, path) if path.is_file() else _unpacked(cifar, path):
            contents[name] = load_plain(content)
        return {name: contents[name] for name in cifar.all_files}
    except Exception as error:  # there is no end to what a damaged file makes its readers raise
        raise ValueError(f"{path} is damaged ({error}). Get it anew.") from error


def _unpacked(cifar: Cifar, folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in cifar.all_files:
        yield name, folder.joinpath(name).read_bytes()


def _archived(cifar: Cifar, path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            file = archive.extractfile(member) if folder == cifar.folder and name in cifar.all_files else None
            if file is not None:
                yield name, file.read()


def _samples(cifar: Cifar, batches: Sequence[Any]) -> Samples:
    images = np.concatenate([_field(batch, "data") for batch in batches])
    labels = torch.tensor([label for batch in batches for label in _field(batch, cifar.labels)])
    if images.dtype != np.uint8 or images.shape != (len(labels), math.prod(SHAPE)):
        found = f"{images.dtype} {list(images.shape)} for {len(labels)} labels"
        raise ValueError(
            f"{cifar.title} is damaged (no images of {math.prod(SHAPE)} bytes each: {found}). Get it anew."
        )
    return torch.from_numpy(images).view(-1, *SHAPE).float().div_(255), labels


def _field(content: Any, name: str) -> Any:
    """Return an entry of a dict that Python 2 wrote, whose strings are read as bytes."""
    if not isinstance(content, dict) or name.encode() not in content:
        raise ValueError(f"a file of CIFAR is damaged (there is no {name!r} in it). Get it anew.")
    return content[name.encode()]


def load_plain(content: bytes) -> Any:
    """Unpickle plain values and NumPy arrays, and nothing that could run code.

    Raises:
        pickle.UnpicklingError: there is something else in it.
    """
    return _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()


class _PlainUnpickler(pickle.Unpickler):
    """Knows no names but those that an array of numbers is put together by."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle asks for by name, if it is harmless."""
        if module.split(".")[0] == "numpy" and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")


def _reconstruct(_: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    """Return the empty array that a pickle then fills, as the function of NumPy does that has this name."""
    return np.empty(shape, typecode.decode())


_ARRAY_PARTS = {"_reconstruct": _reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
"""By their names, in whichever module of NumPy: that of the first has been renamed since."""
