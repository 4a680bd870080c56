"""A run that was saved and resumed goes on as if it had not been interrupted, to the bit."""

import laws
import pytest
import torch

every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)
LABELS = [0, 1] * 5


def build(predictor="last-loss", options=None, **arguments):
    return laws.make_sampler(
        predictor=predictor, predictor_options=options, labels=LABELS, k=0.5, **{"window": 3, **arguments}
    )


def set_entry(state, path, value):
    *parents, last = path
    for name in parents:
        state = state[name]
    state[last] = value


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
            draw.indices, draw.probabilities, draw.weights, is_warm_up=draw.is_warm_up, drawn_at=draw.drawn_at
        )
        for each, its_draw in ((sampler, draw), (resumed, restored)):
            each.update(its_draw, laws.steady_losses(its_draw.indices))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(sampler))


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

    @pytest.mark.parametrize("part", ["proposal", "learner", "warm_up", "diagnostics"])
    def test_a_part_without_one_of_its_entries(self, part):
        sampler = build()
        laws.train(sampler, 4)
        for name in sampler.state_dict()[part]:
            state = laws.snapshot(sampler)
            del state[part][name]
            self.assert_refused(build(), state, f"missing.*{name}")

    def test_what_is_no_state(self):
        self.assert_refused(build(), [1, 2], "must be a dict; got list")

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (["version"], -1, "has version -1; this sampler has"),
            (["step"], 1.0, r"\['step'\]` must be of type int; got float"),
            (["extra"], 1, r"unknown \['extra'\]"),
            (["proposal", "tree", "leaves"], torch.ones(10).double(), "must be torch.float32"),
            (["proposal", "tree", "leaves"], torch.full((10,), torch.nan), "must be finite; the state is damaged"),
            (["proposal", "tree", "leaves"], torch.full((10,), torch.inf), "must be finite; the state is damaged"),
            (["proposal", "tree", "leaves"], torch.full((10,), -1.0), "must be finite and at least 0"),
            (["proposal", "generator"], torch.zeros(3, dtype=torch.uint8), r"\['generator'\]` must be torch.uint8"),
            (["learner", "history", "values"], torch.zeros(10, 3).half(), "must be torch.float32"),
            (["learner", "history", "writes"], [0] * 10, "must be a tensor; got list"),
            (["learner", "rejected"], 0, "must be a tensor; got int"),
            (["warm_up", "position"], 11, r"\['position'\]` must be in \[0, 10\]"),
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
            ["proposal", "smoothing", "mean"],
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
        parent = state
        for name in path[:-1]:
            parent = parent[name]
        parent[path[-1]] = torch.full_like(parent[path[-1]], torch.nan)
        self.assert_refused(build("class-gaussian"), state, "finite")

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"num_samples": 9, "labels": [0, 1] * 4 + [0]}, "has num_samples 10; this sampler has 9"),
            ({"predictor": "uniform"}, "has predictor_class 'LastLossPredictor'; this sampler has 'UniformPredictor'"),
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
