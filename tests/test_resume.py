"""A run that was saved and resumed goes on as if it had not been interrupted, to the bit."""

import math
from pathlib import Path

import laws
import pytest
import torch

from approx_is import VarianceGate

every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)
LABELS = [0, 1] * 5
CLOSED = VarianceGate(relative_cost=1.0, margin=math.inf)
OPENING = VarianceGate(relative_cost=1.0, margin=0.0)


def build(predictor="last-loss", options=None, **arguments):
    return laws.make_sampler(
        predictor=predictor, predictor_options=options, labels=LABELS, k=0.5, **{"window": 3, **arguments}
    )


def entry(state, path):
    for name in path:
        state = state[name]
    return state


def set_entry(state, path, value):
    *parents, last = path
    entry(state, parents)[last] = value


class TestGoesOn:
    @every_configuration
    @pytest.mark.parametrize("steps", [0, 2, 3, 5, 9], ids=["start", "warm-up", "epoch end", "mid epoch", "epoch 3"])
    @pytest.mark.parametrize("smoothing", ["adaptive", 0.3])
    def test_as_the_uninterrupted_run(self, predictor, options, steps, smoothing):
        sampler = build(predictor, options, smoothing=smoothing)
        laws.train(sampler, steps)
        resumed = build(predictor, options, smoothing=smoothing, seed=99)
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))
        for _ in range(2):
            assert torch.equal(resumed.probabilities(), sampler.probabilities())
            laws.assert_same(resumed.metrics(), sampler.metrics())
            laws.assert_same_draws(laws.train(resumed, 6), laws.train(sampler, 6))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))

    @every_configuration
    def test_with_candidates(self, predictor, options):
        sampler, resumed = (build(predictor, options, candidates=5) for _ in range(2))
        laws.train(sampler, 5)
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        laws.assert_same_draws(laws.train(resumed, 6), laws.train(sampler, 6))

    @every_configuration
    def test_in_a_sampler_that_was_used(self, predictor, options):
        sampler, used = build(predictor, options), build(predictor, options)
        laws.train(sampler, 4)
        laws.train(used, 9)
        used.load_state_dict(laws.through_file(sampler.state_dict()))
        laws.assert_same_draws(laws.train(used, 6), laws.train(sampler, 6))
        laws.assert_same(laws.snapshot(used), laws.snapshot(sampler))

    @every_configuration
    def test_without_touching_the_state_that_was_loaded(self, predictor, options):
        sampler, resumed = build(predictor, options), build(predictor, options)
        laws.train(sampler, 5)
        resumed.load_state_dict(sampler.state_dict())
        with laws.assert_unchanged(sampler):
            laws.train(resumed, 5)

    def test_with_counts_of_what_was_left_out(self):
        sampler, resumed = build(), build()
        laws.train(sampler, 5, losses=lambda indices: torch.where(indices < 3, torch.nan, 1.0))
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        assert resumed.metrics()["not_finite"] == sampler.metrics()["not_finite"] > 0

    def test_with_a_draw_that_was_on_its_way(self):
        sampler, resumed = build(), build()
        laws.train(sampler, 4)
        draw = sampler.draw()
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        restored = resumed.restore_draw(
            draw.indices, draw.probabilities, draw.weights, place=None, drawn_at=draw.drawn_at, choose=0
        )
        for each, its_draw in ((sampler, draw), (resumed, restored)):
            each.update(its_draw, laws.steady_losses(its_draw.indices))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))

    @pytest.mark.parametrize("gate", [None, CLOSED], ids=["none", "closed"])
    def test_with_a_draw_of_a_plain_epoch_that_was_on_its_way(self, gate):
        sampler, resumed = build(gate=gate), build(gate=gate)
        laws.train(sampler, 1)
        draw = sampler.draw()
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        restored = resumed.restore_draw(
            draw.indices, draw.probabilities, draw.weights, place=4, drawn_at=draw.drawn_at, choose=0
        )
        assert restored.is_uniform
        for each, its_draw in ((sampler, draw), (resumed, restored)):
            each.update(its_draw, laws.steady_losses(its_draw.indices))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))
        resumed.take_back([restored])
        laws.assert_same_draws([resumed.draw()], [draw])

    @pytest.mark.parametrize("gate", [CLOSED, OPENING], ids=["closed", "opening"])
    @pytest.mark.parametrize("steps", [0, 2, 3, 9, 32, 33, 50])
    def test_with_a_gate_that_asks_no_clock(self, gate, steps):
        sampler, resumed = build(gate=gate), build(gate=gate, seed=99)
        laws.train(sampler, steps)
        resumed.load_state_dict(laws.through_file(sampler.state_dict()))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))
        assert resumed.gate.is_open == sampler.gate.is_open
        laws.assert_same(resumed.metrics(), sampler.metrics())
        draws = laws.train(sampler, 40)
        laws.assert_same_draws(laws.train(resumed, 40), draws)
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))
        assert draws[-1].is_uniform == (gate is CLOSED)


class TestRefuses:
    def assert_refused(self, other, state, match):
        laws.train(other, 2)
        with laws.assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(state)
        laws.train(other, 4)

    @every_configuration
    def test_a_state_without_one_of_its_entries(self, predictor, options):
        sampler = build(predictor, options)
        laws.train(sampler, 4)
        for name in sampler.state_dict():
            state = laws.snapshot(sampler)
            del state[name]
            self.assert_refused(build(predictor, options), state, f"missing.*{name}")

    @pytest.mark.parametrize(
        "path",
        [["drawer"], ["drawer", "proposal"], ["drawer", "epochs"], ["drawer", "gate"], ["learner"], ["diagnostics"]],
        ids=" ".join,
    )
    def test_a_part_without_one_of_its_entries(self, path):
        sampler = build(gate=CLOSED)
        laws.train(sampler, 4)
        for name in entry(sampler.state_dict(), path):
            state = laws.snapshot(sampler)
            del entry(state, path)[name]
            self.assert_refused(build(gate=CLOSED), state, f"missing.*{name}")

    def test_what_is_no_state(self):
        self.assert_refused(build(), [1, 2], "must be a dict; got list")

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (["version"], -1, "has version -1; this sampler has"),
            (["step"], 1.0, r"\['step'\]` must be of type int; got float"),
            (["extra"], 1, r"unknown \['extra'\]"),
            (["drawer", "proposal", "tree", "leaves"], torch.ones(10).double(), "must be torch.float32"),
            (
                ["drawer", "proposal", "tree", "leaves"],
                torch.full((10,), torch.nan),
                "must be finite; the state is damaged",
            ),
            (
                ["drawer", "proposal", "tree", "leaves"],
                torch.full((10,), torch.inf),
                "must be finite; the state is damaged",
            ),
            (["drawer", "proposal", "tree", "leaves"], torch.full((10,), -1.0), "must be finite and at least 0"),
            (
                ["drawer", "proposal", "generator"],
                torch.zeros(3, dtype=torch.uint8),
                r"\['generator'\]` must be torch.uint8",
            ),
            (["learner", "history", "values"], torch.zeros(10, 3).half(), "must be torch.float32"),
            (["learner", "history", "writes"], [0] * 10, "must be a tensor; got list"),
            (["learner", "rejected"], 0, "must be a tensor; got int"),
            (["drawer", "epochs", "place"], -1, r"\['place'\]` must be at least 0; got -1"),
            (["drawer", "epochs", "place"], 4.0, r"\['place'\]` must be of type int; got float"),
            (["drawer", "gate", "open"], True, r"\['gate'\]` has not the expected entries: .*unknown \['open'\]"),
            (["warm_up"], {}, r"unknown \['warm_up'\]"),
            (["diagnostics", "moments", "share"], 2.0, "share"),
            (["gain", "batch_size"], 0, r"\['batch_size'\]` must be at least 1; got 0"),
            (["gain", "signal", "share"], -1.0, "share"),
        ],
    )
    def test_a_damaged_state(self, path, value, match):
        sampler = build()
        laws.train(sampler, 4)
        state = laws.snapshot(sampler)
        set_entry(state, path, value)
        self.assert_refused(build(), state, match)

    @pytest.mark.parametrize(
        "path",
        [
            ["drawer", "proposal", "smoothing", "mean"],
            ["learner", "history", "values"],
            ["learner", "class_mean", "sums"],
            ["learner", "predictor", "moments"],
        ],
        ids=" ".join,
    )
    def test_nan_wherever_draws_would_suffer(self, path):
        sampler = build("class-gaussian")
        laws.train(sampler, 4)
        state = laws.snapshot(sampler)
        set_entry(state, path, torch.full_like(entry(state, path), torch.nan))
        self.assert_refused(build("class-gaussian"), state, "finite")

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"num_samples": 9, "labels": [0, 1] * 4 + [0]}, "has num_samples 10; this sampler has 9"),
            ({"predictor": "uniform"}, "has predictor_class 'LastLossPredictor'; this sampler has 'UniformPredictor'"),
            ({"gate": VarianceGate()}, "has gate_class 'AlwaysOpen'; this sampler has 'PredictorGate'"),
            ({"smoothing": 0.3}, r"\['smoothing'\]` has not the expected entries"),
            ({"window": 4}, r"must be (torch\.\w+) \[10, 4\]; got \1 \[10, 3\]"),
            ({"history_dtype": torch.float16}, r"\['values'\]` must be torch.float16"),
            ({"num_classes": 5}, r"\['sums'\]` must be torch.float64 \[2, 5\]"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_the_state_of_another_sampler(self, arguments, match):
        sampler = build()
        laws.train(sampler, 4)
        arguments = {"labels": LABELS, "window": 3, **arguments}
        self.assert_refused(laws.make_sampler(**arguments), laws.snapshot(sampler), match)

    def test_the_state_of_a_sampler_with_a_gate(self):
        sampler = build(gate=CLOSED)
        laws.train(sampler, 4)
        self.assert_refused(build(), laws.snapshot(sampler), "has gate_class 'PredictorGate'; this sampler has 'Al")

    def test_a_damaged_gate(self):
        sampler = build(gate=CLOSED)
        laws.train(sampler, 4)
        state = laws.snapshot(sampler)
        state["drawer"]["gate"]["extra"] = 1
        self.assert_refused(build(gate=CLOSED), state, r"unknown \['extra'\]")

    def test_another_smoothing_constant(self):
        sampler = build(smoothing=0.2)
        laws.train(sampler, 4)
        self.assert_refused(
            build(smoothing=0.3), laws.snapshot(sampler), "made with `smoothing` = 0.2; this one has 0.3"
        )

    @every_configuration
    def test_a_damaged_predictor(self, predictor, options):
        sampler = build(predictor, options)
        laws.train(sampler, 4)
        state = laws.snapshot(sampler)
        state["learner"]["predictor"]["extra"] = 1
        self.assert_refused(build(predictor, options), state, "extra")


class TestWithAHistoryOnDisk:
    def test_goes_on_from_the_state_not_from_what_the_files_became(self, tmp_path):
        sampler = build(history_path=tmp_path)
        laws.train(sampler, 6)
        state = laws.through_file(sampler.state_dict())
        expected = laws.train(sampler, 5)
        resumed = build(history_path=tmp_path)
        resumed.load_state_dict(state)
        laws.assert_same_draws(laws.train(resumed, 5), expected)
        in_memory = build()
        in_memory.load_state_dict(state)
        laws.assert_same_draws(laws.train(in_memory, 5), expected)

    def test_is_flushed_with_the_state(self, tmp_path, monkeypatch):
        flushed = []
        monkeypatch.setattr(
            "os.fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        )
        build(history_path=tmp_path).state_dict()
        assert sorted(file.name for file in flushed) == ["gaps.bin", "last_step.bin", "values.bin", "writes.bin"]
        flushed.clear()
        build().state_dict()
        assert flushed == []
