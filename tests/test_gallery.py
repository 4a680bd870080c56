"""The gallery of samples by how often they were drawn, and the list of those that look mislabelled."""

import csv
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from approx_is import upper_bound

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def run_gallery(scripts, monkeypatch, tmp_path):
    """Run the script in this process; return the rows of its CSV."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gallery.py", *map(str, arguments), "--out", str(tmp_path / "out")])
        scripts("gallery").main()
        with (tmp_path / "out" / "suspects.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return run


class TestSuspects:
    @given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.1, 30))
    def test_the_bound_is_of_the_most_probable_other_class(self, seed, num_classes, scale):
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(64, num_classes, generator=generator, dtype=torch.float64)
        labels = torch.randint(num_classes, (64,), generator=generator)
        norms = upper_bound(logits, labels).double()
        others = logits.softmax(1).scatter(1, labels.unsqueeze(1), 0)
        assert (others.amax(1) >= norms.square() - 1 - 1e-6).all()
        assert (logits.argmax(1)[norms > 1 + 1e-6] != labels[norms > 1 + 1e-6]).all()

    def test_the_bound_is_reached_where_the_rest_lies_on_one_class(self, scripts):
        logits = torch.tensor([[-40.0, 0.0, -40.0], [-1.0, 0.0, -60.0]])
        norms = upper_bound(logits, torch.tensor([0, 0])).unsqueeze(1).expand(2, 3)
        confidence = scripts("suspects").steady_confidence(norms, torch.tensor([3, 3]))
        other = 1 / (1 + math.exp(-1))  # the norm is √2 times that
        torch.testing.assert_close(confidence, torch.tensor([1.0, 2 * other**2 - 1]))

    def test_one_good_moment_clears_a_sample_and_what_is_missing_does_not(self, scripts):
        norms = torch.tensor([[1.4, 1.3, 1.4, 0.0], [1.4, 1.4, 1.4, 0.1], [1.4, 1.4, 0.0, 0.0]])
        confidence = scripts("suspects").steady_confidence(norms, torch.tensor([3, 4, 2]))
        torch.testing.assert_close(confidence, torch.tensor([1.3**2 - 1, 0.0, 0.0]))

    def test_suspects_are_those_predicted_otherwise_the_surest_first(self, scripts):
        confidence = torch.tensor([0.5, 0.9, 0.95, 0.49, 0.9])
        labels, predicted = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 1, 1, 0])
        assert scripts("suspects").find_suspects(confidence, labels, predicted).tolist() == [1, 4, 0]

    def test_flipped_labels_are_others_as_many_as_asked_for(self, scripts):
        labels = torch.arange(3_000) % 3
        flipped = scripts("suspects").flip_labels(labels, 0.2, 3, seed=1)
        changed = (flipped - labels) % 3
        assert changed.bincount().tolist()[0] == 2_400
        assert changed.bincount()[1:].min() > 240  # 300 each, standard deviation 12
        assert not torch.equal(flipped, scripts("suspects").flip_labels(labels, 0.2, 3, seed=2))
        assert torch.equal(scripts("suspects").flip_labels(labels, 0, 3, seed=1), labels)
        assert labels.bincount().tolist() == [1_000] * 3


class TestExtremes:
    def test_ties_go_by_importance_and_nothing_is_on_both_sides(self, scripts):
        extremes = scripts("gallery_plot").extremes
        draws, importance = torch.tensor([2, 0, 0, 2, 1]), torch.tensor([0.4, 0.2, 0.1, 0.9, 0.0])
        assert [side.tolist() for side in extremes(draws, importance, 2)] == [[2, 1], [3, 0]]
        assert [side.tolist() for side in extremes(draws, importance, 9)] == [[2, 1], [3, 0]]
        assert [side.tolist() for side in extremes(draws[:1], importance[:1], 1)] == [[], []]

    def test_of_many_classes_those_drawn_most_are_shown_in_order(self, scripts):
        draws, labels = torch.tensor([1, 1, 9, 0, 4, 3]), torch.tensor([0, 0, 3, 3, 1, 1])
        shown = scripts("gallery_plot").shown_classes
        assert shown(draws, labels, 4, most=2) == [1, 3]
        assert shown(draws, labels, 4, most=9) == [0, 1, 2, 3]


class TestPlot:
    def test_texts_do_not_touch_however_long_names_and_counts_are(self, scripts, tmp_path, monkeypatch):
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
        tasks, plot = scripts("tasks"), scripts("gallery_plot")
        names, targets = ("a class of a very long name", "T-shirt/top"), torch.arange(8) % 2
        train = tasks.InMemoryDataset(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), targets)
        drawn = plot.Drawn(1_000 + torch.arange(8), torch.ones(8), 1 - targets)
        plot.plot_gallery(tasks.Task("two", "Two", train, train, names), drawn, 2, 40 * "title ", tmp_path / "none.png")
        (figure,) = figures
        texts = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(texts) == 3 + 2 * 2 + 2 * 8  # title and headings; names and means; counts and predictions
        assert len(figure.axes[0].images) == 8
        for position, box in enumerate(texts):
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
            assert box.count_overlaps(texts[:position]) == 0


class TestRecordedTraining:
    @pytest.fixture
    def training(self, scripts):
        tasks = scripts("tasks")
        generator = torch.Generator().manual_seed(0)
        inputs, targets = torch.randn(90, 4, generator=generator), torch.arange(90) % 2
        train = tasks.InMemoryDataset(inputs + targets[:, None], targets)
        task = tasks.Task("two", "Two classes", train, train, ("a", "b"))

        def build(**changes):
            options = {"predictor": "last-loss", "observe": "upper-bound", "steps": 30, "batch_size": 20, **changes}
            return scripts("recorded_training").RecordedTraining(
                scripts("configuration").Config("two", model="mlp", **options), task
            )

        return build

    def test_counts_draws_after_the_first_epoch(self, training):
        recorded = training()
        totals = [int(recorded.draws.sum()) for _ in recorded.steps()]
        assert totals == [0] * 5 + [20 * step for step in range(1, 26)]

    def test_hard_samples_were_drawn_more_often(self, training):
        recorded = training(steps=100)
        list(recorded.steps())
        norms, draws = recorded.norms.last(torch.arange(90)), recorded.draws.double()
        hard = norms > norms.median()
        assert draws[hard].mean() > 1.5 * draws[~hard].mean()

    def test_remembers_losses_and_norms_whichever_the_sampler_observes(self, training):
        all_samples = torch.arange(90)
        for observe, kept in (("loss", "losses"), ("upper-bound", "norms")):
            recorded = training(observe=observe, update_every=1)
            list(recorded.steps())
            own = recorded.sampler.state_dict()["learner"]["history"]["values"]
            assert torch.equal(getattr(recorded, kept).state_dict()["values"], own)
            assert recorded.norms.recent(all_samples).max() <= math.sqrt(2)
            assert recorded.losses.recent(all_samples).max() > recorded.norms.recent(all_samples).max()

    def test_refuses_what_it_cannot_count(self, training):
        with pytest.raises(ValueError, match=r"`--steps` must be at least 6, more than the first epoch; got 5"):
            training(steps=5)
        with pytest.raises(ValueError, match=r"`--predictor` must draw from all samples; got upper-bound"):
            training(predictor="upper-bound")


class TestGallery:
    def test_finds_flipped_labels_and_draws_the_figure(self, run_gallery, tmp_path, capsys):
        options = ["--dataset", "digits", "--model", "mlp", "--steps", 200, "--batch-size", 64, "--rows", 15]
        suspects = run_gallery(*options, "--flip", 0.05)
        found = [row["is_flipped"] == "True" for row in suspects]
        assert sum(found[:15]) >= 14
        assert sum(found) >= 0.9 * len(found)
        assert sum(found) >= 0.4 * 72
        printed = capsys.readouterr().out
        assert f"flipped: {sum(found[:15])} of the first 15, {sum(found)} of all {len(found)} suspects" in printed
        assert f"{sum(found)} of 72 flipped labels are found" in printed
        assert printed.count("\n| ") == 16
        assert (tmp_path / "out" / "suspects.md").read_text() in printed
        assert (tmp_path / "out" / "gallery.png").read_bytes().startswith(b"\x89PNG")

    def test_shuttle_has_a_table_and_no_figure(self, run_gallery, tmp_path):
        options = ["--dataset", "shuttle", "--model", "mlp", "--steps", 60, "--batch-size", 1_000]
        suspects = run_gallery(*options, "--flip", 0.02)
        assert len(suspects) > 20
        for row in suspects:
            assert row["label"] != row["predicted"]
            assert float(row["confidence"]) >= 0.5
            assert min(map(float, row["norms"].split())) ** 2 - 1 == pytest.approx(float(row["confidence"]), abs=1e-3)
        assert not (tmp_path / "out" / "gallery.png").exists()

    def test_refuses_in_one_line(self, run_gallery, tmp_path):
        with pytest.raises(SystemExit, match=r"^gallery\.py: error: [^\n]*'oraculous'[^\n]*$"):
            run_gallery("--dataset", "digits", "--predictor", "oraculous")
        with pytest.raises(SystemExit, match="2"):
            run_gallery("--dataset", "digits", "--flip", 1.5)
        assert not (tmp_path / "out").exists()
