"""Tasks made of others, what a network learns before its run, and LSTMs that read images: on tiny stand-ins."""

import argparse
import gzip
import importlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

SCRIPTS = Path(__file__).parent.parent / "scripts"
TRAIN_SAMPLES, TEST_SAMPLES = 1_100, 100


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Import a script's module by name, as the scripts import one another; what they keep goes into a folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("APPROX_IS_CACHE", str(tmp_path / "cache"))
    return importlib.import_module


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """Return a folder with files like those of Fashion-MNIST: random images of 8 by 8, each class equally often."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for part, count in {"train": TRAIN_SAMPLES, "t10k": TEST_SAMPLES}.items():
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 8, 8)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", generator.permutation(count) % 10)
    return folder


@pytest.fixture
def load(scripts, fashion):
    return lambda name: scripts("tasks").load_task(name, fashion)


@pytest.fixture
def fine_tuning(load):
    task = load("fashion-mnist-finetune")
    return replace(task, prepare=replace(task.prepare, steps=3))


@pytest.fixture
def start(scripts):
    """Return the training of a task by a method, before its first step."""
    config, training = scripts("configuration").Config, scripts("training").Training
    return lambda task, predictor="uniform", model="mlp", seed=0: training(
        config(task.name, predictor, model=model, seed=seed, steps=2), task
    )


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def normalised_network(input_shape, num_classes):
    layers = {"convolution": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm2d(4), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers, head=nn.Linear(4 * 6 * 6, num_classes)))


def same(state, other, names):
    return [torch.equal(state[name], other[name]) for name in names]


class TestLongTail:
    def test_classes_shrink_by_two_fifths_each(self, scripts):
        samples = scripts("samples").InMemoryDataset(torch.zeros(60_000, 1), torch.arange(60_000) % 10)
        task = scripts("samples").Task("x", "X", samples, samples, tuple("0123456789"))
        counts = scripts("variants").long_tailed(task, largest=6_000, ratio=0.6).train.targets.bincount()
        assert counts.tolist() == [6_000, 3_600, 2_160, 1_296, 778, 467, 280, 168, 101, 60]

    def test_keeps_the_first_images_of_each_class_in_their_order(self, load):
        whole, task = load("fashion-mnist"), load("fashion-mnist-lt")
        room, kept = [110] * 8 + [101, 60], []
        for index, label in enumerate(whole.train.targets.tolist()):
            if room[label] > 0:
                kept.append(index)
                room[label] -= 1
        assert (task.name, len(kept)) == ("fashion-mnist-lt", 1_041)
        assert torch.equal(task.train.inputs, whole.train.inputs[kept])
        assert torch.equal(task.train.targets, whole.train.targets[kept])
        assert task.test is whole.test


class TestWrongLabels:
    @pytest.mark.parametrize("percent", [10, 20])
    @pytest.mark.parametrize("name", ["fashion-mnist", "shuttle"])
    def test_the_share_of_training_labels_that_the_name_says_is_wrong(self, load, name, percent):
        clean, task = load(name), load(f"{name}-noisy-{percent}")
        assert task.name == f"{name}-noisy-{percent}"
        changed = task.train.targets != clean.train.targets
        assert changed.sum() == round(percent / 100 * len(clean.train))
        assert torch.equal(task.flipped, changed)
        assert task.train.targets.max() < len(task.class_names)
        assert task.train.inputs is clean.train.inputs
        assert task.test is clean.test
        assert clean.flipped is None

    def test_the_same_labels_are_wrong_every_time(self, scripts, load):
        clean, task = load("fashion-mnist"), load("fashion-mnist-noisy-20")
        torch.manual_seed(5)
        assert torch.equal(scripts("variants").noisy(clean, 20).flipped, task.flipped)

    @pytest.mark.parametrize("seed", range(4))
    def test_wrong_labels_are_not_visited_first(self, load, seed):
        flipped = load("fashion-mnist-noisy-20").flipped
        visited = torch.randperm(TRAIN_SAMPLES, generator=torch.Generator().manual_seed(seed))  # by the plain loader
        assert 0.1 < flipped[visited[:220]].double().mean() < 0.3  # standard deviation 0.024

    def test_the_training_loss_is_of_the_labels_trained_on(self, load, start):
        task, clean = load("fashion-mnist-noisy-20"), load("fashion-mnist")
        training = start(task)
        next(training.steps())
        loss = training.evaluate().train_loss
        logits = training.model.eval()(task.train.inputs)
        assert loss == pytest.approx(F.cross_entropy(logits, task.train.targets).item(), rel=1e-5)
        assert loss != pytest.approx(F.cross_entropy(logits, clean.train.targets).item(), rel=1e-5)


class TestFineTuning:
    def test_five_classes_are_known_and_ten_are_trained(self, load):
        task, whole = load("fashion-mnist-finetune"), load("fashion-mnist")
        before = task.prepare
        assert (task.name, before.num_classes, before.steps) == ("fashion-mnist-finetune", 5, 1_000)
        assert torch.equal(before.samples.inputs, whole.train.inputs[whole.train.targets < 5])
        assert before.samples.targets.bincount().tolist() == [110] * 5
        assert (task.train, task.test, whole.prepare) == (whole.train, whole.test, None)

    @pytest.mark.parametrize(("model", "head"), [("mlp", "5"), ("normalised", "head"), ("row-lstm", "linear")])
    def test_all_methods_of_a_seed_start_from_it_with_a_new_head(
        self, scripts, load, fine_tuning, start, monkeypatch, model, head
    ):
        monkeypatch.setitem(scripts("models").MODELS, "normalised", normalised_network)
        states = [start(fine_tuning, method, model).model.state_dict() for method in ("uniform", "lstm")]
        new = start(load("fashion-mnist"), "uniform", model).model.state_dict()
        heads = [f"{head}.weight", f"{head}.bias"]
        body = [name for name in new if name not in heads]
        assert len(body) == len(new) - 2
        assert all(same(*states, new))
        assert all(same(states[0], new, heads))
        assert not any(same(states[0], new, body))

    def test_what_is_learned_before_is_plain_training_on_the_known_classes(self, scripts, fine_tuning, start):
        found = start(fine_tuning, seed=4).model
        torch.manual_seed(4)
        model = scripts("models").mlp((1, 8, 8), 10)
        torch.manual_seed(4)
        model[5] = nn.Linear(128, 5)
        samples, optimizer = fine_tuning.prepare.samples, torch.optim.Adam(model.parameters(), lr=1e-3)
        for indices in torch.randperm(550, generator=torch.Generator().manual_seed(4)).split(128)[:3]:
            optimizer.zero_grad()
            F.cross_entropy(model(samples.inputs[indices]), samples.targets[indices]).backward()
            optimizer.step()
        assert all(same(found.state_dict(), model.state_dict(), ["1.weight", "1.bias", "3.weight", "3.bias"]))

    def test_goes_on_from_epoch_to_epoch_for_as_many_steps_as_asked(self, fine_tuning):
        batches = list(replace(fine_tuning.prepare, steps=12)._batches(0))
        assert [len(batch) for batch in batches] == [128, 128, 128, 128, 38] * 2 + [128, 128]
        first, second = torch.cat(batches[:5]), torch.cat(batches[5:10])
        assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(550))
        assert not torch.equal(first, second)

    def test_is_done_once_and_leaves_no_trace_in_what_is_random(self, load, fine_tuning, start, capsys):
        start(load("fashion-mnist"))
        expected = torch.get_rng_state()
        start(fine_tuning)
        assert torch.equal(torch.get_rng_state(), expected)
        assert capsys.readouterr().err.startswith("training a network for 3 steps to start from, kept as ")
        start(fine_tuning, "last-loss")
        assert torch.equal(torch.get_rng_state(), expected)
        assert capsys.readouterr().err == ""

    def test_the_file_is_of_all_that_it_depends_on(self, scripts, fine_tuning):
        before, models = fine_tuning.prepare, scripts("models")
        network = models.mlp((1, 8, 8), 10)
        samples = scripts("samples").InMemoryDataset(before.samples.inputs, before.samples.targets.flip(0))
        networks = [network, models.small_cnn((1, 8, 8), 10), models.mlp((1, 8, 8), 10).to("meta")]
        paths = [*(before.path(each, 0) for each in networks), before.path(network, 1)]
        changes = [{"steps": 4}, {"lr": 1e-2}, {"batch_size": 64}, {"num_classes": 6}, {"samples": samples}]
        paths += [replace(before, **change).path(network, 0) for change in changes]
        assert len(set(paths)) == len(paths)
        assert replace(before).path(models.mlp((1, 8, 8), 10), 0) == paths[0]

    def test_the_file_is_where_the_environment_says(self, scripts, monkeypatch, tmp_path):
        folder = scripts("pretraining").cache_folder
        assert folder() == tmp_path / "cache"
        monkeypatch.delenv("APPROX_IS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert folder() == tmp_path / "xdg" / "approx_is"

    def test_the_loops_of_figures_and_of_the_gallery_start_from_it_too(self, scripts, fine_tuning, start, monkeypatch):
        watched, recorded = scripts("watched_training"), scripts("recorded_training")
        monkeypatch.setattr(watched, "LARGE_BATCH", 1)
        config = scripts("configuration").Config(fine_tuning.name, model="mlp", steps=10_000)
        expected = start(fine_tuning).model.state_dict()
        for training in (
            watched.WatchedTraining(replace(config, predictor="uniform"), fine_tuning),
            recorded.RecordedTraining(config, fine_tuning),
        ):
            assert all(same(training.model.state_dict(), expected, expected))

    def test_of_two_processes_the_first_is_right(self, fine_tuning, start, monkeypatch):
        own, first = fine_tuning.prepare, start(fine_tuning).model.state_dict()
        path = own.path(start(fine_tuning).model, 0)
        written = path.read_bytes()
        path.unlink()

        def train_and_be_overtaken(self, model, seed):
            path.write_bytes(written)
            return {name: torch.full_like(value, 7) for name, value in first.items()}

        monkeypatch.setattr(type(own), "_trained", train_and_be_overtaken)
        assert all(same(start(fine_tuning).model.state_dict(), first, first))
        assert list(path.parent.iterdir()) == [path]

    def test_a_damaged_file_is_refused(self, fine_tuning, start):
        path = fine_tuning.prepare.path(start(fine_tuning).model, 0)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"{path.name} is damaged\. Delete it; it is made anew then\."):
            start(fine_tuning)

    def test_a_folder_that_cannot_be_written_to_is_named(self, fine_tuning, start, monkeypatch):
        monkeypatch.setenv("APPROX_IS_CACHE", __file__)
        with pytest.raises(OSError, match=r"kept in .*workloads\.py/pretrained \(.*\)\. Set .* APPROX_IS_CACHE to a "):
            start(fine_tuning)


class TestImageLSTM:
    @pytest.mark.parametrize("shape", [(1, 6, 5), (3, 6, 5)], ids=["grey", "colours"])
    @pytest.mark.parametrize("model", ["row-lstm", "pixel-lstm"])
    def test_reads_in_order_and_predicts_by_its_last_state(self, scripts, model, shape):
        torch.manual_seed(0)
        network = scripts("models").build_model(model, shape, 4)
        images = torch.rand(2, *shape)
        rows = [images[:, :, row] for row in range(6)]  # [B, channels, width]
        order = scripts("image_lstm").permutation(30).tolist()
        assert sorted(order) == list(range(30)) != order
        pixels = [rows[pixel // 5][:, :, pixel % 5] for pixel in order]
        steps = pixels if model == "pixel-lstm" else [row.mT.flatten(1) for row in rows]
        state = None
        for step in steps:
            output, state = network.lstm(step.unsqueeze(1), state)
        torch.testing.assert_close(network(images), network.linear(output[:, 0]))

    def test_is_for_images_and_has_a_name_in_figures(self, scripts):
        with pytest.raises(ValueError, match=r"`--model` must be mlp for samples of shape \[9\]"):
            scripts("models").build_model("row-lstm", (9,), 7)
        assert set(scripts("models").TITLES) == set(scripts("models").MODELS)


def test_a_long_tail_is_read_by_rows_and_judged_by_balance(scripts, fashion):
    parser = argparse.ArgumentParser()
    scripts("options").add_training_options(parser)
    options = ["--dataset", "fashion-mnist-lt", "--data-dir", str(fashion), "--model", "row-lstm", "--steps", "2"]
    arguments = parser.parse_args([*options, "--device", "cpu"])
    config = scripts("configuration").Config(predictor="lstm", k=0.5, **scripts("options").training_options(arguments))
    task = scripts("tasks").load_task(config.dataset, arguments.data_dir)
    training = scripts("training").Training(config, task)
    assert list(training.steps()) == [1, 2]
    row = training.evaluate()
    assert task.score.text(row) == f"balanced error {100 * row.balanced_error:.2f}%"
    assert 80 < task.score.of(row) < 99  # at random, of ten
