"""The loaders of images, on tiny files in the formats that data sets are published in."""

import gzip
import importlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    """Import a script's module by name, as the scripts import one another."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.delenv("APPROX_IS_DATA", raising=False)
    return importlib.import_module


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256


def write_mnist(folder, pack=lambda content: content, suffix=""):
    folder.mkdir(parents=True)
    for split, count in {"train": 3, "t10k": 2}.items():
        for name, values in {"images-idx3": IMAGES, "labels-idx1": np.array([9, 0, 4])}.items():
            (folder / f"{split}-{name}-ubyte{suffix}").write_bytes(pack(idx(values[:count])))


class TestMnist:
    @pytest.mark.parametrize("options", [{}, {"pack": gzip.compress, "suffix": ".gz"}], ids=["plain", "gzipped"])
    @pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
    def test_reads_its_files_wherever_they_are(self, scripts, tmp_path, place, options):
        write_mnist(tmp_path / "data" / place, **options)
        task = scripts("tasks").load_task("mnist", tmp_path / "data")
        assert (task.input_shape, task.title, len(task.class_names)) == ((1, 28, 28), "MNIST", 10)
        torch.testing.assert_close(task.train.inputs[:, 0] * 255, torch.from_numpy(IMAGES).float())
        assert task.train.targets.tolist() == [9, 0, 4]
        assert task.test.targets.tolist() == [9, 0]

    def test_looks_where_the_environment_says(self, scripts, tmp_path, monkeypatch):
        write_mnist(tmp_path / "mnist")
        monkeypatch.setenv("APPROX_IS_DATA", str(tmp_path))
        assert scripts("idx").find_mnist(tmp_path / "elsewhere") == tmp_path / "mnist"

    def test_says_in_one_line_how_to_get_it(self, scripts, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^MNIST is not on this machine\. Get it [^\n]*--data-dir\.$"):
            scripts("tasks").load_task("mnist", tmp_path)

    def test_refuses_images_of_another_number_than_labels(self, scripts, tmp_path):
        write_mnist(tmp_path / "mnist")
        (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2])))
        with pytest.raises(ValueError, match=r"is damaged \(train: images \[3, 28, 28\], labels \[2\]\)"):
            scripts("tasks").load_task("mnist", tmp_path)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as the files of CIFAR were written."""

    def save(self, value, save_persistent_id=True):
        if isinstance(value, bytes):
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        else:
            super().save(value, save_persistent_id)


def python_2(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def images(count, first):
    return (np.arange(count * 3072).reshape(count, 3072) + first).astype(np.uint8)


def cifar_files(name):
    """Return the contents of the files of `name` by their names, with two images each."""
    if name == "cifar-10":
        files = {f"data_batch_{number}": (number, [number, 9]) for number in range(1, 6)} | {"test_batch": (6, [0, 1])}
        batches = {
            file: {b"batch_label": b"x", b"labels": labels, b"data": images(2, first), b"filenames": [b"a", b"b"]}
            for file, (first, labels) in files.items()
        }
        return batches | {"batches.meta": {b"label_names": [b"class %d" % number for number in range(10)]}}
    batches = {
        file: {b"coarse_labels": [0, 0], b"fine_labels": labels, b"data": images(2, first)}
        for file, first, labels in [("train", 1, [99, 3]), ("test", 2, [0, 1])]
    }
    return batches | {"meta": {b"fine_label_names": [b"class %d" % number for number in range(100)]}}


FOLDERS = {"cifar-10": "cifar-10-batches-py", "cifar-100": "cifar-100-python"}


def write_folder(name, folder, **changes):
    folder.mkdir(parents=True)
    for file, content in {**cifar_files(name), **changes}.items():
        (folder / file).write_bytes(python_2(content))


def write_archive(name, folder):
    write_folder(name, folder / "unpacked" / FOLDERS[name])
    with tarfile.open(folder / f"{name}-python.tar.gz", "w:gz") as archive:
        archive.add(folder / "unpacked" / FOLDERS[name], FOLDERS[name])


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
    @pytest.mark.parametrize("is_archive", [False, True], ids=["folder", "archive"])
    def test_reads_its_files(self, scripts, tmp_path, name, is_archive):
        if is_archive:
            write_archive(name, tmp_path)
        else:
            write_folder(name, tmp_path / FOLDERS[name])
        task = scripts("tasks").load_task(name, tmp_path)
        classes, labels = (10, [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]) if name == "cifar-10" else (100, [99, 3])
        assert (task.input_shape, len(task.class_names)) == ((3, 32, 32), classes)
        assert task.class_names[7] == "class 7"
        assert task.train.targets.tolist() == labels
        assert task.test.targets.tolist() == [0, 1]
        first = torch.from_numpy(images(2, 1)).view(2, 3, 32, 32)
        torch.testing.assert_close(task.train.inputs[:2] * 255, first.float())

    def test_a_folder_may_be_named_itself(self, scripts, tmp_path):
        write_folder("cifar-100", tmp_path / "any")
        assert scripts("cifar").find(scripts("cifar").CIFAR_100, tmp_path / "any") == tmp_path / "any"

    @pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
    def test_says_in_one_line_how_to_get_it(self, scripts, tmp_path, name):
        with pytest.raises(
            FileNotFoundError, match=rf"^{name.upper()} is not [^\n]*{name}-python\.tar\.gz[^\n]*data-dir"
        ):
            scripts("tasks").load_task(name, tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            {b"fine_labels": [0]},
            {b"fine_labels": [0], b"data": images(2, 0)},
            [1],
            {b"fine_labels": [0], b"data": [[1]]},
        ],
        ids=["no images", "too few labels", "no dict", "no bytes"],
    )
    def test_refuses_other_content(self, scripts, tmp_path, content):
        write_folder("cifar-100", tmp_path / FOLDERS["cifar-100"], train=content)
        with pytest.raises(ValueError, match=r"is damaged \(.+\)\. Get it anew"):
            scripts("tasks").load_task("cifar-100", tmp_path)

    def test_refuses_a_file_that_is_cut_off(self, scripts, tmp_path):
        write_archive("cifar-10", tmp_path)
        archive = tmp_path / "cifar-10-python.tar.gz"
        archive.write_bytes(archive.read_bytes()[:-2_000])
        with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged \(.+\)\. Get it anew"):
            scripts("tasks").load_task("cifar-10", tmp_path)


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestPickles:
    def test_arrays_of_any_numpy_and_plain_values_are_read(self, scripts):
        load = scripts("cifar").load_plain
        value = {b"a": [1, 2.5, b"x", None], b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)}
        old = python_2(value)
        for content in (old, old.replace(b"cnumpy.core.", b"cnumpy._core.")):
            found = load(content)
            assert found[b"a"] == value[b"a"]
            np.testing.assert_array_equal(found[b"data"], value[b"data"])

    def test_code_is_not_run(self, scripts, tmp_path):
        content = pickle.dumps({b"data": Harmful(tmp_path / "made")})
        with pytest.raises(pickle.UnpicklingError, match=r"it asks for \w+\.mkdir, which no data set needs"):
            scripts("cifar").load_plain(content)
        assert not (tmp_path / "made").exists()
        pickle.loads(content)
        assert (tmp_path / "made").exists()  # it would have been

    @pytest.mark.parametrize("name", ["builtins\neval", "numpy\nload", "numpy.core.multiarray\nfromfile"])
    def test_names_that_no_array_needs_are_refused(self, scripts, name):
        with pytest.raises(pickle.UnpicklingError, match="which no data set needs"):
            scripts("cifar").load_plain(b"c" + name.encode() + b"\n.")


@pytest.mark.parametrize("model", ["paper", "small-cnn", "mlp", "resnet-18"])
def test_every_network_of_images_takes_colours(scripts, model):
    network = scripts("models").build_model(model, (3, 32, 32), 100)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 100)
