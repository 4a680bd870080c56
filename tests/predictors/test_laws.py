"""What the sampler asks of every predictor, and what it does with one that breaks the law."""

import math

import laws
import pytest
import torch

from approx_is import register_predictor
from approx_is.predictors import LastLossPredictor
from approx_is.protocols import Predictor

every_configuration = pytest.mark.parametrize(("name", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)
every_predictor = pytest.mark.parametrize("name", laws.PREDICTORS)

ALL = torch.arange(12)
FIRST, SECOND = torch.arange(6), torch.tensor([0, 0, 7, 3])
HARD = {
    "nothing observed": [],
    "ordinary": [(FIRST, torch.arange(6.0)), (SECOND, torch.tensor([2.0, 2.0, 1.0, 9.0]))],
    "all zero": [(FIRST, torch.zeros(6)), (SECOND, torch.zeros(4))],
    "tiny": [(FIRST, torch.full((6,), 1e-38)), (SECOND, torch.full((4,), 1e-45))],
    "enormous": [(FIRST, torch.full((6,), 1e30)), (SECOND, torch.full((4,), 1e30))],
    "many orders of magnitude": [(FIRST, torch.logspace(-20, 30, 6)), (SECOND, torch.tensor([1.0, 1.0, 1e30, 0.0]))],
    "one sample": [(torch.tensor([11]), torch.tensor([4.0]))] * 9,
}
every_history = pytest.mark.parametrize("batches", HARD.values(), ids=HARD.keys())


def assert_lawful(importance, indices):
    assert isinstance(importance, torch.Tensor)
    assert importance.shape == indices.shape
    assert importance.is_floating_point()
    assert not importance.requires_grad
    assert bool((importance.isfinite() & (importance >= 0)).all())


class TestPredictions:
    @every_configuration
    @every_history
    @pytest.mark.parametrize("labels", [None, torch.arange(12) % 3], ids=["unlabelled", "labelled"])
    def test_are_finite_and_not_negative(self, name, options, batches, labels):
        predictor, history = laws.make_predictor(name, options, labels=labels, num_classes=1 if labels is None else 3)
        for step, batch in enumerate(batches, start=1):
            laws.observe(predictor, history, [batch], first_step=step)
            assert_lawful(predictor.predict(ALL), ALL)
        for indices in (torch.tensor([], dtype=torch.int64), torch.tensor([5]), torch.tensor([3, 3, 0])):
            assert_lawful(predictor.predict(indices), indices)

    @every_configuration
    def test_are_pure(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        with laws.assert_unchanged(predictor, history):
            once, twice = predictor.predict(ALL), predictor.predict(ALL)
        assert torch.equal(once, twice)

    @every_configuration
    def test_do_not_depend_on_the_company(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        together = predictor.predict(ALL)
        alone = torch.cat([predictor.predict(index.unsqueeze(0)) for index in ALL])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)
        torch.testing.assert_close(predictor.predict(ALL.flip(0)), together.flip(0), rtol=1e-5, atol=0)

    @every_configuration
    def test_leave_grad_mode_and_global_randomness_alone(self, name, options):
        with laws.assert_global_randomness_untouched():
            predictor, history = laws.make_predictor(name, options)
            laws.observe(predictor, history, HARD["ordinary"])
            predictor.predict(ALL)
        assert torch.is_grad_enabled()

    @every_configuration
    def test_work_within_no_grad(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        reference, reference_history = laws.make_predictor(name, options)
        with torch.no_grad():
            laws.observe(predictor, history, HARD["ordinary"])
        laws.observe(reference, reference_history, HARD["ordinary"])
        assert torch.equal(predictor.predict(ALL), reference.predict(ALL))


class TestState:
    @every_configuration
    def test_restored_predictor_goes_on_bit_by_bit(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        resumed, resumed_history = laws.make_predictor(name, options, seed=1)
        resumed_history.load_state_dict(laws.through_file(history.state_dict()))
        resumed.load_state_dict(laws.through_file(predictor.state_dict()))
        for one, its_history in ((predictor, history), (resumed, resumed_history)):
            laws.observe(one, its_history, HARD["ordinary"], first_step=3)
        assert torch.equal(resumed.predict(ALL), predictor.predict(ALL))
        laws.assert_same(resumed.state_dict(), predictor.state_dict())

    @every_configuration
    def test_learning_on_leaves_the_loaded_state_as_it_was(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        resumed, resumed_history = laws.make_predictor(name, options)
        resumed.load_state_dict(predictor.state_dict())
        with laws.assert_unchanged(predictor):
            laws.observe(resumed, resumed_history, HARD["ordinary"])

    @every_configuration
    def test_unknown_entry_is_refused_and_nothing_changes(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        with laws.assert_unchanged(predictor), pytest.raises(ValueError, match=r"load_state_dict\(state\)"):
            predictor.load_state_dict({**laws.snapshot(predictor), "extra": 1})

    @every_configuration
    def test_missing_entry_is_refused_and_nothing_changes(self, name, options):
        predictor, history = laws.make_predictor(name, options)
        laws.observe(predictor, history, HARD["ordinary"])
        for entry in predictor.state_dict():
            state = laws.snapshot(predictor)
            del state[entry]
            with laws.assert_unchanged(predictor), pytest.raises(ValueError, match=f"missing.*{entry}"):
                predictor.load_state_dict(state)

    @every_predictor
    def test_is_a_predictor(self, name):
        assert isinstance(laws.make_predictor(name, {})[0], Predictor)


class TestInSampler:
    @every_configuration
    @pytest.mark.parametrize("labels", [None, [0, 1, 2] * 4], ids=["unlabelled", "labelled"])
    def test_unseen_samples_have_the_mean_of_their_class(self, name, options, labels):
        sampler = laws.make_sampler(12, 6, predictor=name, predictor_options=options, labels=labels, smoothing=0.0)
        classes = torch.tensor(labels or [4] * 12)
        laws.train(sampler, 8, losses=lambda indices: torch.where(indices < 9, 1.0 + classes[indices], torch.nan))
        found = sampler._drawer.proposal.importance(torch.arange(9, 12))
        if not getattr(sampler._learner.predictor, "judges_unseen", False):
            expected = 1.0 + classes[9:]
        elif name == "rank":  # where the mean of all stands
            expected = sampler._learner.predictor.predict(torch.arange(9, 12))
        else:
            expected = {"uniform": torch.ones(3), "last-loss": (1.0 + classes[9:]) ** options.get("exponent", 1.0)}[
                name
            ]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    def test_uniform_predictor_draws_uniformly_though_some_samples_are_unseen(self):
        sampler = laws.make_sampler(10, 4, predictor="uniform", drop_last=True)
        laws.train(sampler, 4)  # two of them after the first epoch, which left two samples out
        torch.testing.assert_close(sampler.probabilities(), torch.full((10,), 0.1, dtype=torch.float64))

    @every_configuration
    @pytest.mark.parametrize("labels", [None, [0, 1, 1, 1] * 3], ids=["unlabelled", "labelled"])
    def test_draws_and_learns_at_every_age(self, name, options, labels):
        sampler = laws.make_sampler(12, 4, predictor=name, predictor_options=options, labels=labels, window=2)
        laws.train(sampler, 15)
        laws.assert_draws_are_from(sampler)
        laws.assert_is_distribution(sampler.probabilities())
        assert sampler.metrics()["rejected_predictions"] == 0.0
        assert sampler.metrics()["coverage"] == 1.0

    @every_predictor
    def test_name_and_class_build_the_same_sampler(self, name):
        by_name = laws.make_sampler(predictor=name)
        by_class = laws.make_sampler(predictor=type(by_name._learner.predictor))
        laws.assert_same_draws(laws.train(by_class, 6), laws.train(by_name, 6))


class Lawless(LastLossPredictor):
    """Predicts 3 for every sample, and for sample 2 what the test says."""

    def __init__(self, *arguments, value):
        super().__init__(*arguments)
        self.value = value

    def predict(self, indices):
        return torch.where(indices == 2, self.value, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-30])
class TestLawlessPredictions:
    def sampler(self, value, **arguments):
        return laws.make_sampler(4, 4, predictor=Lawless, predictor_options={"value": value}, **arguments)

    def test_never_reach_the_tree_and_are_counted(self, value):
        sampler = self.sampler(value)
        laws.train(sampler, 1, losses=lambda indices: torch.full((len(indices),), 7.0))
        assert sampler._drawer.proposal.importance(torch.arange(4)).tolist() == [3.0, 3.0, 7.0, 3.0]
        assert sampler.metrics()["rejected_predictions"] == 1.0
        laws.assert_is_distribution(sampler.probabilities())

    def test_are_not_candidates(self, value, monkeypatch):
        sampler = self.sampler(value, candidates=3, smoothing=0.0)
        laws.train(sampler, 1, losses=lambda indices: torch.full((len(indices),), 7.0))
        monkeypatch.setattr(torch, "randint", lambda high, size, generator, device: torch.tensor([0, 2, 1]))
        draw = sampler.draw(40)
        expected = torch.where(draw.indices == 2, 7.0, 3.0) / 13
        torch.testing.assert_close(draw.weights, 1 / (3 * expected), rtol=1e-5, atol=0)
        assert set(draw.indices.tolist()) == {0, 1, 2}
        assert sampler.metrics()["rejected_predictions"] == 2.0

    @pytest.mark.parametrize("judges_unseen", [False, True])
    def test_count_for_unseen_samples_only_if_the_predictor_judges_them(self, value, judges_unseen):
        predictor = type("Judging", (Lawless,), {"local": False, "judges_unseen": judges_unseen})
        sampler = laws.make_sampler(4, 4, predictor=predictor, refresh=math.inf, predictor_options={"value": value})
        draw = sampler.draw()
        sampler.update(draw, torch.where(draw.indices == 2, torch.nan, 5.0))  # asks for those that were observed
        assert sampler.metrics()["rejected_predictions"] == 0.0
        assert sampler._learner.predict(torch.tensor([2, 0])).tolist() == [5.0, 3.0]
        assert sampler.metrics()["rejected_predictions"] == float(judges_unseen)


@pytest.mark.usefixtures("no_registrations")
def test_registered_predictor_obeys_by_name():
    register_predictor("lawless", Lawless)
    sampler = laws.make_sampler(4, 4, predictor="lawless", predictor_options={"value": 1.0}, smoothing=0.0)
    laws.train(sampler, 1)
    expected = torch.tensor([0.3, 0.3, 0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-5, atol=0)
