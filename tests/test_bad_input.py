"""What is wrong is refused with a reason, before anything changes; what is odd but right works."""

import laws
import pytest
import sample_sets
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, SubsetRandomSampler

from approx_is import ApproxSampler, Draw, ImportanceSampler, VarianceGate
from approx_is.predictors import UniformPredictor

BAD_ARGUMENTS = {
    "k too large": ({"k": 1.5}, r"`ApproxSampler\(k=...\)` must be a finite number of at most 1; got 1\.5"),
    "k nan": ({"k": float("nan")}, "must be a finite number of at most 1; got nan"),
    "k infinite": ({"k": -float("inf")}, "must be a finite number of at most 1; got -inf"),
    "k of a function too large": (
        {"k": lambda step: 1.5},
        r"`ApproxSampler\(k=...\)` must be a finite number of at mos",
    ),
    "k of a function nan": ({"k": lambda step: float("nan")}, "must be a finite number of at most 1; got nan"),
    "gate unknown": ({"gate": "atuo"}, "`gate` must be \"auto\", None or a VarianceGate; got 'atuo'"),
    "gate a flag": ({"gate": True}, '`gate` must be "auto", None or a VarianceGate; got True'),
    "gate a class": ({"gate": VarianceGate}, '`gate` must be "auto", None or a VarianceGate; got <class'),
    "predictor unknown": ({"predictor": "lstn"}, "`predictor` must be one of .*last-loss.*; got 'lstn'"),
    "labels too few": ({"labels": [0, 1]}, r"`labels` must have shape \[10\], one a sample; got \[2\]"),
    "labels not integers": ({"labels": torch.zeros(10)}, r"`labels` must be integer classes; got torch\.float32"),
    "labels of two columns": ({"labels": torch.zeros(10, 2).long()}, r"`labels` must have shape \[10\]"),
    "labels negative": ({"labels": [-1] + [0] * 9}, "`labels` must be at least 0; got -1"),
    "labels too large": ({"labels": [2] * 10, "num_classes": 2}, "below `num_classes` = 2; got 2"),
    "smoothing negative": ({"smoothing": -0.1}, "`smoothing` must be finite and at least 0; got -0.1"),
    "smoothing nan": ({"smoothing": float("nan")}, "`smoothing` must be finite and at least 0; got nan"),
    "smoothing unknown": ({"smoothing": "adaptiv"}, "`smoothing` must be \"adaptive\".*got 'adaptiv'"),
    "window zero": ({"window": 0}, r"`LossHistory\(window=...\)` must be in \[1, 127\]; got 0"),
    "window too large": ({"window": 128}, r"must be in \[1, 127\]; got 128"),
    "candidates zero": ({"candidates": 0}, r"`candidates` must be in \[1, 10\]; got 0"),
    "candidates more than samples": ({"candidates": 11}, r"`candidates` must be in \[1, 10\]; got 11"),
    "refresh zero": ({"refresh": 0}, "`refresh` must be positive, in epochs; got 0"),
    "refresh negative": ({"refresh": -1.0}, "`refresh` must be positive, in epochs; got -1.0"),
    "refresh nan": ({"refresh": float("nan")}, "`refresh` must be positive, in epochs; got nan"),
    "seed negative": ({"seed": -1}, "`seed` must be at least 0; got -1"),
    "history of integers": ({"history_dtype": torch.int32}, "must be one of .*; got torch.int32"),
    "option out of bounds": (
        {"predictor": "class-gaussian", "predictor_options": {"decay": 1.0}},
        r"`ClassGaussianPredictor\(decay=...\)` must be in \[0, 1\); got 1.0",
    ),
}
BAD_TYPES = {
    "predictor": ({"predictor": 3}, "`predictor` must be a name, a factory or a predictor; got 3"),
    "k": ({"k": "large"}, r"`ApproxSampler\(k=...\)` must be a number; got 'large'"),
    "k of a function": ({"k": lambda step: None}, r"`ApproxSampler\(k=...\)` must be a number; got None"),
    "seed": ({"seed": 0.5}, "`seed` must be an integer; got 0.5"),
    "candidates": ({"candidates": 2.5}, "`candidates` must be an integer; got 2.5"),
    "option": (
        {"predictor": "last-loss", "predictor_options": {"decay": 0.5}},
        "`predictor_options` do not fit the predictor 'last-loss': .*decay",
    ),
    "argument": ({"predictr": "lstm"}, "unexpected keyword argument 'predictr'"),
}


def index_loader(size=10, **settings):
    return DataLoader(sample_sets.Numbers(size), **{"batch_size": 4, **settings})


class TestArguments:
    @pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
    def test_bad_value_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ImportanceSampler(10, 4, **arguments)
        with pytest.raises(ValueError, match=message):
            ApproxSampler(index_loader(), **arguments)

    @pytest.mark.parametrize(("arguments", "message"), BAD_TYPES.values(), ids=BAD_TYPES.keys())
    def test_bad_type_is_refused(self, arguments, message):
        with pytest.raises(TypeError, match=message):
            ImportanceSampler(10, 4, **arguments)
        with pytest.raises(TypeError, match=message):
            ApproxSampler(index_loader(), **arguments)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ((0, 4), "`num_samples` must be at least 1; got 0"),
            ((-3, 4), "`num_samples` must be at least 1; got -3"),
            ((10, 0), "`batch_size` must be at least 1; got 0"),
        ],
    )
    def test_sizes_must_be_positive(self, sizes, message):
        with pytest.raises(ValueError, match=message):
            ImportanceSampler(*sizes)

    @pytest.mark.parametrize("sizes", [(10.0, 4), (10, 4.0), ("10", 4)])
    def test_sizes_must_be_integers(self, sizes):
        with pytest.raises(TypeError, match="must be an integer; got"):
            ImportanceSampler(*sizes)

    def test_built_predictor_takes_no_options(self):
        predictor = UniformPredictor(torch.zeros(1), None, 1, torch.Generator())
        with pytest.raises(ValueError, match="`predictor_options` are for a predictor given by name or factory"):
            laws.make_sampler(predictor=predictor, predictor_options={"decay": 0.5})

    def test_bad_batch_size_of_one_draw_is_refused(self):
        sampler = laws.make_sampler()
        with (
            laws.assert_unchanged(sampler),
            pytest.raises(ValueError, match=r"draw\(batch_size\)` must be at least 1"),
        ):
            sampler.draw(0)

    def test_bad_batch_size_of_one_request_is_refused(self):
        sampler = laws.make_sampler()
        with (
            laws.assert_unchanged(sampler),
            pytest.raises(ValueError, match=r"\(batch_size\)` must be at least 1; got -2"),
        ):
            sampler.request(-2)

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            (torch.tensor([0, 10]), r"must be in \[0, 10\); got entries from 0 to 10"),
            (torch.tensor([-1]), r"must be in \[0, 10\); got entries from -1 to -1"),
            (torch.tensor([0.0]), r"must be an integer tensor of shape \[B\]; got torch.float32 \[1\]"),
            (torch.tensor(3), r"must be an integer tensor of shape \[B\]; got torch.int64 \[\]"),
            ([1, 2], r"must be an integer tensor of shape \[B\]; got list"),
        ],
    )
    def test_probabilities_of_bad_indices_are_refused(self, indices, message):
        for gated in (True, False):
            with pytest.raises(ValueError, match=message):
                laws.make_sampler().probabilities(indices, gated=gated)

    @pytest.mark.parametrize("labels", [[1] * 10, torch.ones(10, 1).int(), torch.ones(10, dtype=torch.uint8)])
    def test_labels_of_any_integer_form_are_fine(self, labels):
        laws.train(laws.make_sampler(predictor="class-gaussian", labels=labels), 4)

    def test_batch_larger_than_the_data_set_works_over_several_epochs(self):
        sampler = ApproxSampler(index_loader(3, batch_size=8), predictor="last-loss", gate=None)
        sizes = []
        for _ in range(4):
            for batch, draw in sampler:
                assert torch.equal(batch, draw.indices)
                sampler.update(draw, laws.steady_losses(draw.indices))
                sizes.append(len(draw))
        assert sizes == [3, 8, 8, 8]


class TestLoaders:
    @pytest.mark.parametrize(
        ("loader", "message"),
        [
            (lambda: DataLoader([], batch_size=4), "needs at least one sample; the data set is empty"),
            (lambda: DataLoader(sample_sets.Unsized(), batch_size=4), "Unsized has no length"),
            (lambda: DataLoader(sample_sets.Stream(), batch_size=4), "an IterableDataset has none"),
            (lambda: index_loader(batch_size=None), "got a loader with batch_size=None or a batch_sampler"),
            (
                lambda: DataLoader(
                    sample_sets.Numbers(4), batch_sampler=BatchSampler(SequentialSampler(range(4)), 2, drop_last=False)
                ),
                "got a loader with batch_size=None or a batch_sampler",
            ),
            (
                lambda: index_loader(sampler=SubsetRandomSampler([1, 2])),
                "got a loader with a SubsetRandomSampler. .*torch.utils.data.Subset",
            ),
            (lambda: index_loader(3, drop_last=True), "no batches: 3 samples, batch_size=4 and drop_last=True"),
        ],
        ids=["empty", "no length", "iterable", "no batches", "batch sampler", "sampler", "drop_last"],
    )
    def test_loader_whose_batches_are_not_ours_is_refused(self, loader, message):
        with pytest.raises(ValueError, match=message):
            ApproxSampler(loader())

    @pytest.mark.parametrize("loader", [sample_sets.Numbers(4), [1, 2], None])
    def test_what_is_not_a_loader_is_refused(self, loader):
        with pytest.raises(TypeError, match=r"`ApproxSampler\(loader\)` must be a torch.utils.data.DataLoader; got"):
            ApproxSampler(loader)


def trained(predictor="last-loss"):
    sampler = laws.make_sampler(predictor=predictor, labels=[0, 1] * 5)
    laws.train(sampler, 4)
    return sampler, sampler.draw()


BAD_OBSERVATIONS = {
    "scalar": (torch.tensor(1.0), ValueError, r'must have shape \[4\].*got shape \[\]\. .*reduction="none"'),
    "too short": (torch.ones(3), ValueError, r"must have shape \[4\], one value a sample; got shape \[3\]"),
    "too long": (torch.ones(5), ValueError, r"must have shape \[4\], one value a sample; got shape \[5\]"),
    "a column": (torch.ones(4, 1), ValueError, r"got shape \[4, 1\]\. Pass losses rather"),
    "empty": (torch.ones(0), ValueError, r"got shape \[0\]"),
    "negative": (torch.tensor([1.0, -0.5, 1.0, 1.0]), ValueError, r"`update\(observed\)` must be at least 0; got -0.5"),
    "negative beside nan": (torch.tensor([1.0, -0.5, torch.nan, 1.0]), ValueError, "must be at least 0; got -0.5"),
    "negative beside inf": (torch.tensor([torch.inf, -2.0, 1.0, 1.0]), ValueError, "must be at least 0; got -2.0"),
    "negative integers": (torch.tensor([1, -2, 1, 1]), ValueError, "must be at least 0; got -2.0"),
    "a list": ([1.0, 1.0, 1.0, 1.0], TypeError, r"must be a tensor of shape \[4\]; got list"),
    "a number": (1.0, TypeError, r"must be a tensor of shape \[4\]; got float"),
    "nothing": (None, TypeError, r"must be a tensor of shape \[4\]; got NoneType"),
}


class TestObservations:
    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    @pytest.mark.parametrize(("observed", "error", "message"), BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS.keys())
    def test_bad_ones_are_refused_and_nothing_changes(self, predictor, observed, error, message):
        sampler, draw = trained(predictor)
        for given in (observed, lambda: observed):
            with laws.assert_unchanged(sampler), pytest.raises(error, match=message):
                sampler.update(draw, given)
        sampler.update(draw, torch.ones(4))  # the draw is not spent

    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e300])
    def test_those_not_finite_are_counted_and_left_out(self, predictor, value):
        sampler, draw = trained(predictor)
        other, _ = trained(predictor)
        observed = laws.steady_losses(draw.indices).double()
        observed[1] = value
        kept = torch.tensor([0, 2, 3])
        sampler.update(draw, observed)
        other.update(
            other.restore_draw(
                draw.indices[kept],
                draw.probabilities[kept],
                draw.weights[kept],
                place=None,
                drawn_at=draw.drawn_at,
                choose=0,
            ),
            observed[kept],
        )
        assert sampler.metrics()["not_finite"] == 1.0
        state = laws.snapshot(sampler)
        state["feedback"]["not_finite"] = 0
        state["gain"]["draws"] -= 1  # it was drawn, and is in the gradient
        laws.assert_same({**state, "gain": {**state["gain"], "batch_size": 3}}, laws.snapshot(other))

    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    def test_batch_without_a_finite_one_counts_as_a_step_only(self, predictor):
        sampler, draw = trained(predictor)
        before = laws.snapshot(sampler)
        sampler.update(draw, torch.full((4,), torch.nan))
        before["feedback"]["not_finite"] = 4
        before["gain"]["draws"] += 4
        laws.assert_same(laws.snapshot(sampler), {**before, "step": 5})

    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    def test_none_finite_ever_leaves_draws_uniform(self, predictor):
        sampler = laws.make_sampler(predictor=predictor)
        laws.train(sampler, 6, losses=lambda indices: torch.full((len(indices),), torch.nan))
        assert torch.equal(sampler.probabilities(), torch.full((10,), 0.1, dtype=torch.float64))
        assert sampler.metrics()["coverage"] == 0.0

    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    @pytest.mark.parametrize(
        "observed",
        [
            torch.tensor([1e30, 1.0, 0.0, 2.0]),
            torch.tensor([65504.0, 1.0, 0.0, 6e-8], dtype=torch.float16),
            torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.bfloat16),
            torch.tensor([1.0, 2.0, 0.0, 1e-300], dtype=torch.float64),
            torch.tensor([1, 2, 0, 3]),
            torch.tensor([True, False, True, True]),
            torch.tensor([-0.0, 1.0, 0.0, 2.0]),
            torch.arange(8.0)[::2],
        ],
        ids=["1e30", "float16", "bfloat16", "float64", "int64", "bool", "minus zero", "strided"],
    )
    def test_odd_ones_are_fine(self, predictor, observed):
        sampler, draw = trained(predictor)
        sampler.update(draw, observed)
        assert sampler.metrics()["not_finite"] == 0.0
        laws.assert_all_finite(sampler.state_dict())
        laws.assert_is_distribution(sampler.probabilities())

    @pytest.mark.parametrize("predictor", laws.PREDICTORS)
    def test_graph_and_gradients_are_left_alone(self, predictor):
        sampler, draw = trained(predictor)
        other, same_draw = trained(predictor)
        parameter = torch.full((), 2.0, requires_grad=True)
        losses = parameter * (1 + torch.arange(4.0))
        sampler.update(draw, losses)
        assert parameter.grad is None
        assert losses.requires_grad
        other.update(same_draw, losses.detach())
        laws.assert_same(laws.snapshot(sampler), laws.snapshot(other))  # `deepcopy` of a graph's inner tensor raises
        draw.weighted_mean(losses).backward()  # the graph is still there
        torch.testing.assert_close(parameter.grad, (draw.weights * (1 + torch.arange(4.0))).mean())

    def test_observed_tensor_is_not_kept(self):
        sampler, draw = trained()
        observed = torch.ones(4)
        sampler.update(draw, observed)
        with laws.assert_unchanged(sampler):
            observed.fill_(99.0)


class TestDraws:
    @pytest.mark.parametrize("copy", [False, True])
    @pytest.mark.parametrize("copy_again", [False, True])
    def test_one_updates_once(self, copy, copy_again):
        sampler, draw = trained()
        first, second = (draw.to("cpu") if copied else draw for copied in (copy, copy_again))
        sampler.update(first, torch.ones(4))
        with laws.assert_unchanged(sampler), pytest.raises(ValueError, match="this one was used already"):
            sampler.update(second, torch.ones(4))

    def test_another_samplers_draw_is_refused(self):
        sampler, draw = trained()
        other, _ = trained()
        with laws.assert_unchanged(sampler, other), pytest.raises(ValueError, match="this one was made elsewhere"):
            other.update(draw, torch.ones(4))
        sampler.update(draw, torch.ones(4))  # not spent

    def test_hand_made_draw_is_refused(self):
        sampler, draw = trained()
        by_hand = Draw(draw.indices, draw.probabilities, draw.weights)
        with laws.assert_unchanged(sampler), pytest.raises(ValueError, match="this one was made elsewhere"):
            sampler.update(by_hand, torch.ones(4))

    def test_weighted_mean_refuses_a_mean_loss(self):
        _, draw = trained()
        with pytest.raises(ValueError, match=r'weighted_mean\(losses\)` must have shape \[4\].*reduction="none"'):
            draw.weighted_mean(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (torch.tensor([1.0, -1e300], dtype=torch.float64), r"must be at least 0; got -1e\+300"),
        (torch.ones(2, dtype=torch.complex64), "must be real; got torch.complex64"),
    ],
    ids=["beyond float32", "complex"],
)
def test_what_a_cast_would_hide_is_refused(observed, message):
    sampler = ImportanceSampler(4, 2, predictor="last-loss")
    draw = sampler.draw()
    with laws.assert_unchanged(sampler), pytest.raises(ValueError, match=message):
        sampler.update(draw, observed)
