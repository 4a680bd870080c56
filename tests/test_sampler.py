import math

import pytest
import torch
from laws import (
    CONFIGURATION_IDS,
    CONFIGURATIONS,
    PREDICTORS,
    assert_global_randomness_untouched,
    assert_same,
    assert_same_draws,
    assert_unchanged,
    snapshot,
    steady_losses,
    through_file,
)
from sample_sets import (
    INDICES_OF,
    Augmented,
    Fetched,
    Labelled,
    Numbers,
    Stream,
    Structured,
    Tagged,
    Uneven,
    collate_to_text,
    tag_with_worker,
)
from torch.utils.data import DataLoader, Subset, TensorDataset

from approx_is import ApproxSampler, ImportanceSampler, ScoreError, VarianceGate
from approx_is.predictors import UniformPredictor

# a thread of a library may run while the workers are forked
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WORKERS = pytest.mark.parametrize("num_workers", [0, 2])
EVERY_LOADER = pytest.mark.parametrize(
    "workers",
    [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}],
    ids=["no workers", "workers", "persistent workers"],
)


def make(dataset, batch_size=4, predictor="last-loss", *, sampler_options=None, **loader_options):
    """Return an `ApproxSampler` over a data set, or over numbers if a size is given, without a gate unless one is."""
    dataset = Numbers(dataset) if isinstance(dataset, int) else dataset
    loader = DataLoader(dataset, batch_size=batch_size, **loader_options)
    return ApproxSampler(loader, predictor=predictor, **{"gate": None, **(sampler_options or {})})


class Scoring(UniformPredictor):
    """Scores three candidates a draw, which are numbers, by themselves; fails when told to."""

    least_tau = 2.0
    needs_tau = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.failures = 0
        self.scored = []

    def sizes(self, batch_size, tau):
        return 3 * batch_size, batch_size

    def score(self, batch, size, chunk):
        assert batch.shape == (size,)
        self.scored.append(batch.tolist())
        if self.failures:
            self.failures -= 1
            raise ScoreError("out of luck")
        return 1.0 + batch

    def select(self, batch, positions):
        assert positions.device.type == "cpu"
        return batch[positions]


def train_epoch(sampler, steps=None):
    """Train for an epoch, or until so many steps of it; return what came out, as (batch, draw)."""
    seen = []
    for batch, draw in sampler:
        sampler.update(draw, steady_losses(draw.indices))
        seen.append((batch, draw))
        if len(seen) == steps:
            break
    return seen


def assert_same_run(found, expected):
    """Assert that two runs had the same batches and draws, to the bit."""
    assert_same([batch for batch, _ in found], [batch for batch, _ in expected])
    assert_same_draws([draw for _, draw in found], [draw for _, draw in expected])


class TestBatches:
    @WORKERS
    @pytest.mark.parametrize("structure", INDICES_OF, ids=lambda structure: structure.__name__)
    def test_the_samples_of_a_batch_are_those_of_its_draw_in_order(self, structure, num_workers):
        sampler = make(Structured(10, structure), num_workers=num_workers)
        for _ in range(2):
            for batch, draw in train_epoch(sampler):
                assert torch.equal(INDICES_OF[structure](batch), draw.indices)

    @EVERY_LOADER
    def test_a_collate_function_makes_the_batch(self, workers):
        sampler = make(10, collate_fn=collate_to_text, **workers)
        for _ in range(3):
            for batch, draw in train_epoch(sampler):
                assert batch == "-".join(str(index) for index in draw.indices.tolist())

    @WORKERS
    def test_a_data_set_may_fetch_batches_whole(self, num_workers):
        for batch, draw in train_epoch(make(Fetched(10), num_workers=num_workers)):
            assert torch.equal(batch, draw.indices)

    def test_a_subset_is_drawn_from_by_its_own_positions(self):
        subset = Subset(Numbers(100), range(50, 60))
        for batch, draw in train_epoch(make(subset)):
            assert torch.equal(batch, draw.indices + 50)

    def test_a_tensor_data_set_gives_its_tensors(self):
        values = torch.arange(10.0) ** 2
        for (inputs, targets), draw in train_epoch(make(TensorDataset(values, -values))):
            assert torch.equal(inputs, values[draw.indices])
            assert torch.equal(targets, -values[draw.indices])

    def test_batches_out_of_order_come_with_their_own_draws(self):
        sampler = make(Uneven(12), batch_size=2, num_workers=2, in_order=False)
        for _ in range(3):
            seen = train_epoch(sampler)
            assert len(seen) == 6
            assert all(torch.equal(batch, draw.indices) for batch, draw in seen)

    def test_workers_are_initialised_as_the_users(self):
        sampler = make(Tagged(8), num_workers=2, worker_init_fn=tag_with_worker)
        tags = [tag for (_, tags), _ in train_epoch(sampler) for tag in tags.tolist()]
        assert sorted(tags) == [0] * 4 + [1] * 4

    def test_the_users_loader_still_works_alone(self):
        loader = DataLoader(Numbers(5), batch_size=2)
        before = dict(vars(loader))
        train_epoch(ApproxSampler(loader, predictor="last-loss"))
        assert vars(loader) == before
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]

    def test_a_data_set_without_indices_is_refused(self):
        with pytest.raises(ValueError, match="an IterableDataset has none"):
            make(Stream())

    def test_what_is_no_loader_is_refused(self):
        with pytest.raises(TypeError, match=r"`ApproxSampler\(loader\)` must be a .*DataLoader; got Numbers"):
            ApproxSampler(Numbers(3))


class TestEpochs:
    @EVERY_LOADER
    @pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
    def test_the_first_epoch_visits_every_sample_once_with_weight_one(self, workers, size, batch_size):
        seen = train_epoch(make(size, batch_size, sampler_options={"k": -2.5}, **workers))
        assert sorted(torch.cat([draw.indices for _, draw in seen]).tolist()) == list(range(size))
        assert all(torch.equal(draw.weights, torch.ones(len(draw))) for _, draw in seen)

    @WORKERS
    @pytest.mark.parametrize(
        ("size", "batch_size", "drop_last", "length"),
        [(10, 4, False, 3), (10, 4, True, 2), (8, 4, True, 2), (3, 8, False, 1)],
    )
    def test_every_epoch_has_as_many_batches_as_the_users(self, size, batch_size, drop_last, length, num_workers):
        sampler = make(size, batch_size, drop_last=drop_last, num_workers=num_workers)
        assert len(sampler) == length
        for epoch in range(4):
            assert sampler.epoch == epoch
            assert len(train_epoch(sampler)) == length

    def test_dropping_the_last_batch_keeps_all_batches_full(self):
        sampler = make(10, drop_last=True)
        for _ in range(3):
            assert [len(draw) for _, draw in train_epoch(sampler)] == [4, 4]

    def test_a_batch_larger_than_the_data_set_is_drawn_with_replacement(self):
        sampler = make(3, 8)
        assert [len(draw) for _, draw in train_epoch(sampler)] == [3]
        assert [len(draw) for _ in range(3) for _, draw in train_epoch(sampler)] == [8, 8, 8]

    def test_the_epoch_can_be_set(self):
        sampler = make(4)
        sampler.set_epoch(5)
        train_epoch(sampler)
        assert sampler.epoch == 6

    @EVERY_LOADER
    def test_an_epoch_broken_off_is_followed_by_a_whole_one(self, workers):
        sampler = make(40, **workers)
        for steps in (1, 3, None, 2, None):
            seen = train_epoch(sampler, steps)
            assert len(seen) == (steps or 10)
            assert all(torch.equal(batch, draw.indices) for batch, draw in seen)

    @EVERY_LOADER
    def test_an_iteration_ends_when_another_begins(self, workers):
        sampler = make(40, **workers)
        first = iter(sampler)
        next(first)
        second = iter(sampler)
        next(second)
        with pytest.raises(RuntimeError, match="This iteration over an `ApproxSampler` ended when another one began"):
            next(first)

    @EVERY_LOADER
    def test_an_iteration_that_ended_takes_nothing_from_the_next(self, workers):
        sampler = make(40, **workers)
        first, second = iter(sampler), iter(sampler)
        next(first)
        next(second)
        with pytest.raises(RuntimeError, match="ended when another one began"):
            next(first)
        assert len(list(second)) == len(sampler) - 1


class TestClosedGate:
    GATES = pytest.mark.parametrize(
        "gate",
        [VarianceGate(margin=math.inf), VarianceGate(margin=math.inf, relative_cost=1.0)],
        ids=["asleep", "learning"],
    )

    @GATES
    @EVERY_LOADER
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_every_epoch_visits_every_sample_once_with_weight_one(self, gate, workers, drop_last):
        sampler = make(10, drop_last=drop_last, sampler_options={"gate": gate}, **workers)
        orders = []
        for _ in range(4):
            draws = [draw for _, draw in train_epoch(sampler)]
            assert [len(draw) for draw in draws] == ([4, 4] if drop_last else [4, 4, 2])
            assert all(draw.is_uniform and torch.equal(draw.weights, torch.ones(len(draw))) for draw in draws)
            orders.append(torch.cat([draw.indices for draw in draws]).tolist())
            assert len(set(orders[-1])) == (8 if drop_last else 10)
        assert len({tuple(order) for order in orders}) == 4

    @GATES
    @EVERY_LOADER
    def test_an_epoch_broken_off_is_followed_by_one_that_visits_every_sample(self, gate, workers):
        sampler = make(40, sampler_options={"gate": gate}, **workers)
        for steps in (None, 3, None, 1, 9, None):
            seen = train_epoch(sampler, steps)
            if steps is None:
                assert sorted(torch.cat([draw.indices for _, draw in seen]).tolist()) == list(range(40))

    @WORKERS
    def test_the_first_epoch_broken_off_is_finished_in_the_next(self, num_workers):
        sampler = make(40, num_workers=num_workers, sampler_options={"gate": VarianceGate(margin=math.inf)})
        seen = [*train_epoch(sampler, 3), *train_epoch(sampler)[:7]]
        assert sorted(torch.cat([draw.indices for _, draw in seen]).tolist()) == list(range(40))

    def test_is_the_default_at_k_1_until_draws_by_importance_are_known_to_pay(self):
        sampler = ApproxSampler(DataLoader(Numbers(12), batch_size=4), predictor="last-loss")
        for _ in range(3):
            assert all(draw.is_uniform for _, draw in train_epoch(sampler))
        assert not sampler.gate.is_open
        assert "closed" in sampler.gate.verdict

    @pytest.mark.parametrize("k", [0.5, lambda step: 1.0], ids=["0.5", "function"])
    def test_is_not_the_default_otherwise(self, k):
        sampler = ApproxSampler(DataLoader(Numbers(12), batch_size=4), predictor="last-loss", k=k)
        train_epoch(sampler)
        assert not any(draw.is_uniform for _, draw in train_epoch(sampler))
        assert sampler.gate.is_open

    def test_probabilities_are_uniform_but_for_those_without_it(self):
        sampler = make(10, sampler_options={"gate": VarianceGate(margin=math.inf, relative_cost=1.0)})
        other = make(10)
        for each in (sampler, other):
            train_epoch(each)
        assert torch.equal(sampler.probabilities(), torch.full((10,), 0.1, dtype=torch.float64))
        assert torch.equal(sampler.probabilities(gated=False), other.probabilities())
        some = torch.tensor([3, 1])
        assert torch.equal(sampler.probabilities(some, gated=False), other.probabilities(some))

    @GATES
    @WORKERS
    @pytest.mark.parametrize(("epochs", "steps"), [(0, 2), (2, 0), (2, 3)], ids=["first", "end", "mid"])
    def test_is_resumed(self, gate, num_workers, epochs, steps):
        sampler, resumed = (make(18, 3, num_workers=num_workers, sampler_options={"gate": gate}) for _ in range(2))
        for _ in range(epochs):
            train_epoch(sampler)
        iteration = iter(sampler)
        for _ in range(steps):
            _, draw = next(iteration)
            sampler.update(draw, steady_losses(draw.indices))
        resumed.load_state_dict(through_file(sampler.state_dict()))
        rest = []
        for batch, draw in iteration:
            sampler.update(draw, steady_losses(draw.indices))
            rest.append((batch, draw))
        assert_same_run(train_epoch(resumed), rest)
        assert_same_run(train_epoch(resumed), train_epoch(sampler))

    @WORKERS
    def test_that_opens_is_resumed_to_the_bit(self, num_workers):
        gate = VarianceGate(relative_cost=1.0, margin=0.0)  # asks no clock
        sampler, resumed = (make(18, 3, num_workers=num_workers, sampler_options={"gate": gate}) for _ in range(2))
        plain = []
        for _ in range(8):
            resumed.load_state_dict(through_file(sampler.state_dict()))
            seen = train_epoch(sampler)
            assert_same_run(train_epoch(resumed), seen)
            assert_same(snapshot(resumed)["sampler"], snapshot(sampler)["sampler"])
            plain.append(all(draw.is_uniform for _, draw in seen))
        assert plain[0]
        assert sampler.gate.is_open
        assert not plain[-1]


class TestCandidates:
    """Fetched, scored and chosen from."""

    @EVERY_LOADER
    def test_the_batch_is_of_those_chosen_in_the_order_of_the_draw(self, workers):
        sampler = make(40, predictor=Scoring, **workers)
        for _ in range(2):
            seen = train_epoch(sampler)
            assert len(seen) == 10
            for batch, draw in seen:
                assert draw.is_batch
                assert not draw.is_uniform
                assert len(draw) == 4
                assert torch.equal(batch, draw.indices)

    def test_draws_are_those_of_the_sampler_of_indices(self):
        sampler = make(40, predictor=Scoring)
        alone = ImportanceSampler(40, 4, predictor=Scoring, gate=None)
        seen = train_epoch(sampler)
        draws = []
        for _ in seen:
            draws.append(alone.draw())
            alone.update(draws[-1], steady_losses(draws[-1].indices))
        assert_same_draws([draw for _, draw in seen], draws)

    @EVERY_LOADER
    @pytest.mark.parametrize("steps", [0, 3, 9])
    def test_that_could_not_be_scored_come_again(self, workers, steps):
        sampler, other = (make(40, predictor=Scoring, **workers) for _ in range(2))
        iteration, seen, scorer = iter(sampler), [], sampler._sampler.scorer
        for _ in range(steps):
            batch, draw = next(iteration)
            sampler.update(draw, steady_losses(draw.indices))
            seen.append((batch, draw))
        scorer.failures = 1
        with pytest.raises(ScoreError, match="out of luck"):
            next(iteration)
        seen += train_epoch(sampler)
        assert scorer.scored[steps] == scorer.scored[steps + 1]
        assert len(seen) == 10
        assert_same_run(seen, train_epoch(other))
        assert_same_run(train_epoch(sampler), train_epoch(other))
        assert sampler.epoch == other.epoch == 2

    @WORKERS
    @pytest.mark.parametrize("failures", [0, 1])
    def test_are_resumed_to_the_bit(self, num_workers, failures):
        sampler, resumed = (make(40, predictor=Scoring, num_workers=num_workers) for _ in range(2))
        iteration = iter(sampler)
        for _ in range(3):
            _, draw = next(iteration)
            sampler.update(draw, steady_losses(draw.indices))
        if failures:
            sampler._sampler.scorer.failures = failures
            with pytest.raises(ScoreError, match="out of luck"):
                next(iteration)
            iteration = iter(sampler)
        resumed.load_state_dict(through_file(sampler.state_dict()))
        rest = []
        for batch, draw in iteration:
            sampler.update(draw, steady_losses(draw.indices))
            rest.append((batch, draw))
        assert_same_run(train_epoch(resumed), rest)
        assert len(rest) == 7


class TestWeights:
    @WORKERS
    @pytest.mark.parametrize("k", [1.0, 0.5])
    def test_weights_are_those_of_the_moment_of_the_draw(self, num_workers, k, monkeypatch):
        announced, request_now = [], ImportanceSampler.request

        def record(sampler):
            announced.append(sampler.probabilities())
            return request_now(sampler)

        monkeypatch.setattr(ImportanceSampler, "request", record)
        sampler = make(40, num_workers=num_workers, sampler_options={"k": k})
        train_epoch(sampler)
        announced.clear()
        outdated = 0
        for step, (_, draw) in enumerate(sampler):
            expected = announced[step][draw.indices]
            assert torch.equal(draw.probabilities, expected)
            torch.testing.assert_close(draw.weights, ((40 * expected) ** -k).float(), rtol=1e-6, atol=0)
            outdated += not torch.equal(sampler.probabilities(draw.indices), expected)
            sampler.update(draw, steady_losses(draw.indices) * (step + 1))
        assert (outdated > 0) == (num_workers > 0)

    def test_probabilities_are_those_of_the_next_draw(self):
        sampler = make(10)
        assert torch.equal(sampler.probabilities(), torch.full((10,), 0.1, dtype=torch.float64))
        train_epoch(sampler)
        announced = sampler.probabilities()
        _, draw = next(iter(sampler))
        assert torch.equal(draw.probabilities, announced[draw.indices])
        assert torch.equal(sampler.probabilities(torch.tensor([3, 1])), announced[[3, 1]])

    def test_k_may_follow_the_steps(self):
        sampler = make(40, sampler_options={"k": lambda step: 1.0 - step / 40})
        train_epoch(sampler)
        for step, (_, draw) in enumerate(train_epoch(sampler), start=10):
            assert draw.drawn_at == step
            expected = (40 * draw.probabilities) ** (step / 40 - 1)
            torch.testing.assert_close(draw.weights, expected.float(), rtol=1e-6, atol=0)

    @WORKERS
    def test_what_is_observed_may_be_asked_for(self, num_workers):
        sampler, other = (make(10, num_workers=num_workers) for _ in range(2))
        for _ in range(2):
            for _, draw in sampler:
                sampler.update(draw, lambda draw=draw: steady_losses(draw.indices))
            train_epoch(other)
        assert_same(snapshot(sampler), snapshot(other))

    @WORKERS
    def test_metrics_count_the_updates(self, num_workers):
        sampler = make(10, num_workers=num_workers)
        train_epoch(sampler)
        assert sampler.metrics()["step"] == 3
        assert sampler.metrics()["coverage"] == 1


class TestLabels:
    """Seen through class-gaussian: classes differ in what is predicted of them."""

    def probabilities_by_class(self, dataset, classes, **options):
        sampler = make(dataset, predictor="class-gaussian", sampler_options=options)
        for _ in range(10):
            for _, draw in sampler:
                sampler.update(draw, torch.tensor(classes)[draw.indices].float() * 5 + 1)
        probabilities = sampler.probabilities()
        return [
            {float(p) for p in probabilities[torch.tensor(classes) == each].float()} for each in sorted(set(classes))
        ]

    @pytest.mark.parametrize("name", ["targets", "labels"])
    def test_labels_of_the_data_set_are_used(self, name):
        classes = [0, 1, 0, 1, 1, 0, 1, 0]
        low, high = self.probabilities_by_class(Labelled(classes, name), classes)
        assert max(low) < min(high)

    def test_labels_are_found_through_subsets(self):
        classes = [0, 1, 0, 1, 1, 0, 1, 0]
        order = [7, 6, 5, 4, 3, 2, 1, 0]
        dataset = Subset(Subset(Labelled([0, 0, *classes]), range(2, 10)), order)
        low, high = self.probabilities_by_class(dataset, [classes[index] for index in order])
        assert max(low) < min(high)

    def test_given_labels_go_before_those_of_the_data_set(self):
        classes = [0, 1, 0, 1, 1, 0, 1, 0]
        low, high = self.probabilities_by_class(Labelled([0] * 8), classes, labels=torch.tensor(classes).unsqueeze(1))
        assert max(low) < min(high)

    def test_without_labels_all_samples_are_of_one_class(self):
        classes = [0, 1, 0, 1, 1, 0, 1, 0]
        low, high = self.probabilities_by_class(Numbers(8), classes)
        assert abs(max(high) - min(low)) < 0.05

    def test_bad_labels_are_refused(self):
        with pytest.raises(ValueError, match=r"`labels` must have shape \[8\], one a sample; got \[7\]"):
            make(8, sampler_options={"labels": [0] * 7})


class TestRandomness:
    @pytest.mark.parametrize("predictor", PREDICTORS)
    @WORKERS
    def test_runs_with_one_seed_are_the_same_to_the_bit(self, predictor, num_workers):
        runs, states = [], []
        for _ in range(2):
            sampler = make(Augmented(12), predictor=predictor, num_workers=num_workers, sampler_options={"seed": 3})
            # numbers made in workers come from the sampler's seed too, those in this process are the user's
            torch.manual_seed(0)
            runs.append(train_epoch(sampler) + train_epoch(sampler))
            states.append(snapshot(sampler))
        assert_same_run(*runs)
        assert_same(*states)

    @WORKERS
    def test_numbers_made_in_workers_follow_the_samplers_seed(self, num_workers):
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(len(runs) if num_workers else 0)
            sampler = make(Augmented(12), num_workers=num_workers, sampler_options={"seed": seed})
            runs.append(torch.cat([numbers for (_, numbers), _ in train_epoch(sampler)]).tolist())
        assert runs[0] == runs[1]
        assert (runs[1] != runs[2]) == (num_workers > 0)

    def test_another_seed_draws_otherwise(self):
        epochs = [train_epoch(make(40, sampler_options={"seed": seed})) for seed in (0, 1)]
        first, second = (torch.cat([draw.indices for _, draw in epoch]).tolist() for epoch in epochs)
        assert first != second

    @pytest.mark.parametrize("predictor", PREDICTORS)
    @WORKERS
    def test_global_generators_are_left_alone(self, predictor, num_workers):
        with assert_global_randomness_untouched():
            sampler = make(12, predictor=predictor, num_workers=num_workers)
            train_epoch(sampler)
            train_epoch(sampler)
            sampler.metrics()


class TestResume:
    @pytest.mark.parametrize(("predictor", "options"), CONFIGURATIONS, ids=CONFIGURATION_IDS)
    @pytest.mark.parametrize(
        ("epochs", "steps"), [(0, 1), (1, 2), (2, 0)], ids=["first epoch", "mid epoch", "epoch end"]
    )
    @WORKERS
    def test_a_resumed_run_goes_on_to_the_bit(self, predictor, options, epochs, steps, num_workers):
        def build():
            labels = [index % 3 for index in range(18)]
            arguments = {"predictor_options": options, "labels": labels, "k": 0.5}
            return make(18, 3, predictor, num_workers=num_workers, sampler_options=arguments)

        sampler, resumed = build(), build()
        for _ in range(epochs):
            train_epoch(sampler)
        iteration = iter(sampler)
        for _ in range(steps):
            _, draw = next(iteration)
            sampler.update(draw, steady_losses(draw.indices))
        resumed.load_state_dict(through_file(sampler.state_dict()))
        assert_same(snapshot(resumed), snapshot(sampler))
        assert torch.equal(resumed.probabilities(), sampler.probabilities())
        assert_same(resumed.metrics(), sampler.metrics())

        rest = []
        for batch, draw in iteration:
            sampler.update(draw, steady_losses(draw.indices))
            rest.append((batch, draw))
        assert_same_run(train_epoch(resumed), rest)
        assert len(rest) == 6 - steps
        assert resumed.epoch == sampler.epoch == epochs + 1
        assert_same_run(train_epoch(resumed), train_epoch(sampler))
        assert_same(snapshot(resumed)["sampler"], snapshot(sampler)["sampler"])
        assert_same(resumed.metrics(), sampler.metrics())

    def test_workers_go_on_with_the_same_seeds_after_an_epoch(self):
        sampler, resumed = (make(Augmented(12), num_workers=2) for _ in range(2))
        train_epoch(sampler)
        resumed.load_state_dict(through_file(sampler.state_dict()))
        assert_same_run(train_epoch(resumed), train_epoch(sampler))

    def test_workers_go_on_with_the_same_seeds_after_an_epoch_resumed_in_its_midst(self):
        sampler, resumed = (make(Augmented(24), num_workers=2) for _ in range(2))
        iteration = iter(sampler)
        next(iteration)
        resumed.load_state_dict(through_file(sampler.state_dict()))
        assert len(list(iteration)) == len(list(resumed))
        assert_same_run(train_epoch(resumed), train_epoch(sampler))

    def test_the_state_after_the_last_batch_leaves_nothing_of_the_epoch(self):
        sampler, resumed = make(8), make(8)
        for batch, draw in sampler:
            sampler.update(draw, batch.float())
            state = snapshot(sampler)
        resumed.load_state_dict(state)
        assert list(resumed) == []
        assert resumed.epoch == 1
        assert_same_run(train_epoch(resumed), train_epoch(sampler))

    def test_loading_into_a_sampler_that_was_used_forgets_what_it_did(self):
        sampler, used = make(8), make(8)
        train_epoch(sampler)
        train_epoch(used)
        train_epoch(used, steps=1)
        used.load_state_dict(through_file(sampler.state_dict()))
        assert_same_run(train_epoch(used), train_epoch(sampler))

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda state: state.pop("sampler"), r"missing \['sampler'\]"),
            (lambda state: state.pop("pending"), r"missing \['pending'\]"),
            (lambda state: state.pop("epoch"), r"missing \['epoch'\]"),
            (lambda state: state.update(epoch=1.0), r"\['epoch'\]` must be of type int; got float"),
            (lambda state: state.update(more=1), r"unknown \['more'\]"),
            (lambda state: state.update(worker_epoch=-2), r"\['worker_epoch'\]` must be at least -1"),
            (lambda state: state["pending"].pop("draws"), r"missing \['draws'\]"),
            (lambda state: state["pending"]["draws"][0].pop("weights"), r"missing \['weights'\]"),
            (lambda state: state["sampler"]["drawer"]["proposal"].pop("tree"), r"missing \['tree'\]"),
            (lambda state: state["sampler"]["learner"].pop("predictor"), r"missing \['predictor'\]"),
            (lambda state: state["sampler"].update(num_samples=9), "has num_samples 9; this sampler has 8"),
        ],
    )
    def test_a_damaged_state_is_refused_and_changes_nothing(self, damage, match):
        sampler = make(8, 2, num_workers=2)
        iteration = iter(sampler)
        next(iteration)
        state = snapshot(sampler)
        iteration.close()
        assert len(state["pending"]["draws"]) == 3
        damage(state)
        other = make(8, 2)
        with assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(state)

    @pytest.mark.parametrize(
        ("size", "predictor", "options", "match"),
        [
            (9, "last-loss", {}, "has num_samples 8; this sampler has 9"),
            (8, "uniform", {}, "has predictor_class 'LastLossPredictor'; this sampler has 'UniformPredictor'"),
            (8, "last-loss", {"smoothing": 0.3}, r"\['smoothing'\]` has not the expected entries"),
            (8, "last-loss", {"gate": VarianceGate()}, "has gate_class 'AlwaysOpen'; this sampler has 'PredictorGate'"),
            (8, "last-loss", {"window": 3}, r"\['history'\]\['.*'\]` must be torch.* \[8, 3\]"),
        ],
    )
    def test_the_state_of_another_sampler_is_refused(self, size, predictor, options, match):
        sampler, other = make(8), make(size, predictor=predictor, sampler_options=options)
        train_epoch(sampler)
        with assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(sampler.state_dict())

    @pytest.mark.parametrize("predictor", PREDICTORS)
    def test_a_loaded_state_is_not_changed_by_what_follows(self, predictor):
        sampler, resumed = make(8, predictor=predictor), make(8, predictor=predictor)
        train_epoch(sampler)
        resumed.load_state_dict(sampler.state_dict())
        with assert_unchanged(sampler):
            train_epoch(resumed)


class TestForgottenUpdate:
    def test_an_epoch_without_update_is_said(self, caplog):
        list(ApproxSampler(DataLoader(torch.arange(6.0), batch_size=2), predictor="last-loss"))
        assert "An epoch went by without `update`" in caplog.text

    def test_an_epoch_with_updates_is_not(self, caplog):
        sampler = ApproxSampler(DataLoader(torch.arange(6.0), batch_size=2), predictor="last-loss")
        for batch, draw in sampler:
            sampler.update(draw, batch)
        assert caplog.text == ""
