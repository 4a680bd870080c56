"""Fits: what they get to see, that a thread changes nothing in them, and that none outlives who asked for it."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from laws import assert_same, make_sampler, through_file, train
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from approx_is.predictors import refit
from approx_is.predictors.refit import Fit, Refit, fit, select
from approx_is.predictors.robust import UncertaintySet, robust_probabilities
from approx_is.predictors.uncertainty_set import fit_uncertainty_set

PREVIOUS = UncertaintySet([0.5, 0.8], [0.1, 0.3])
MEANS = np.array([1.0, np.exp(0.5)])
FITTING = {"observations": 32, "fit_size": 16, "solver": "l-bfgs"}
"""Options of a predictor that refits every few steps."""


def observe(count=4096, seed=0, tail=2.1):
    """Return observations around a set, with a tail so heavy that a few make most of the constraint."""
    generator = np.random.default_rng(seed)
    features = np.column_stack([np.ones(count), generator.lognormal(size=count)])
    scatter = generator.pareto(tail, size=count)
    norms = PREVIOUS.centre(features) + np.sqrt(PREVIOUS.spread(features)) * scatter
    return features, norms, 1 / generator.uniform(0.3, 3.0, size=count)


def left_side(features, norms, weights, fitted=PREVIOUS):
    """Return the left side of the constraint of a fit."""
    return np.mean(weights * (norms - fitted.centre(features)) ** 2 / fitted.spread(features))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("approx_is-refit")]


@pytest.fixture
def gate(monkeypatch):
    """Hold every fit until the event is set."""
    event, original = threading.Event(), refit.solve_uncertainty_set

    def wait_and_solve(*arguments, **options):
        assert event.wait(60)
        return original(*arguments, **options)

    monkeypatch.setattr(refit, "solve_uncertainty_set", wait_and_solve)
    yield event
    event.set()


class TestSelect:
    @pytest.mark.parametrize("size", [9, 10, 1000])
    @pytest.mark.parametrize("previous", [None, PREVIOUS], ids=["first", "later"])
    def test_takes_all_if_they_are_few(self, size, previous):
        observations = observe(9)
        for found, given in zip(select(*observations, previous, size), observations, strict=True):
            assert np.array_equal(found, given)

    @pytest.mark.parametrize("previous", [None, PREVIOUS], ids=["first", "later"])
    @pytest.mark.parametrize("size", [1, 7, 1024, 4095])
    def test_returns_so_many_of_the_rows(self, size, previous):
        features, norms, weights = observe()
        chosen, chosen_norms, chosen_weights = select(features, norms, weights, previous, size)
        assert (chosen.shape, chosen_norms.shape, chosen_weights.shape) == ((size, 2), (size,), (size,))
        rows = {norm: tuple(row) for norm, row in zip(norms, features, strict=True)}
        assert all(rows[norm] == tuple(row) for norm, row in zip(chosen_norms, chosen, strict=True))
        assert (chosen_weights > 0).all()

    def test_without_a_set_before_it_takes_them_evenly_spread_and_as_they_weigh(self):
        features, norms, weights = observe(16)
        chosen, chosen_norms, chosen_weights = select(features, norms, weights, None, 4)
        assert np.array_equal(chosen, features[1::4])
        assert np.array_equal(chosen_norms, norms[1::4])
        np.testing.assert_allclose(chosen_weights, weights[1::4], rtol=1e-14)

    def test_means_over_the_selected_are_those_over_all_where_outliers_make_them(self):
        errors, even_errors = [], []
        for seed in range(20):
            observations = observe(seed=seed)
            of_all = left_side(*observations)
            errors.append(abs(left_side(*select(*observations, PREVIOUS, 1024)) / of_all - 1))
            even_errors.append(abs(left_side(*select(*observations, None, 1024)) / of_all - 1))
        assert np.median(errors) < 0.01
        assert max(errors) < 0.04
        assert np.sum(np.array(even_errors) > 0.02) >= 15

    def test_means_of_something_else_are_near_too(self):
        other = UncertaintySet([0.6, 0.7], [0.3, 0.2])
        for seed in range(20):
            features, norms, weights = observe(seed=seed)
            chosen = select(features, norms, weights, other, 1024)
            assert left_side(*chosen) == pytest.approx(left_side(features, norms, weights), rel=0.05)
            assert np.mean(chosen[2]) == pytest.approx(np.mean(weights), rel=0.1)
            assert np.mean(chosen[2] * chosen[1]) == pytest.approx(np.mean(weights * norms), rel=0.1)

    def test_a_fit_to_the_selected_is_nearly_as_small_a_set_as_one_to_all(self):
        for seed in range(5):
            observations = observe(seed=seed)
            best = fit_uncertainty_set(*observations, MEANS, solver="l-bfgs")
            fitted = fit_uncertainty_set(*select(*observations, PREVIOUS, 1024), MEANS, solver="l-bfgs")
            scale = left_side(*observations, fitted)  # of its spread, until it holds all
            assert 1 - 1e-9 < scale * (MEANS @ fitted.d) / (MEANS @ best.d) < 1.005

    def test_an_outlier_is_never_left_out(self):
        features, norms, weights = observe(400)
        for position in (0, 137, 399):
            outlier = norms.copy()
            outlier[position] = 1e4
            assert 1e4 in select(features, outlier, weights, PREVIOUS, 50)[1]

    @pytest.mark.parametrize(
        ("c", "d", "scale"), [(0.0, 0.0, 1.0), (0.0, 0.0, 1e30), (0.5, 0.0, 1.0), (0.0, 1e-300, 1e30), (1.0, 1.0, 0.0)]
    )
    def test_a_set_that_explains_nothing_or_everything_leaves_finite_weights(self, c, d, scale):
        features, norms, weights = observe(100)
        _, _, chosen_weights = select(features, scale * norms, weights, UncertaintySet([c, c], [d, d]), 10)
        assert np.isfinite(chosen_weights).all()
        assert (chosen_weights > 0).all()


class TestFit:
    @pytest.mark.parametrize("solver", ["cvxpy", "l-bfgs"])
    def test_is_the_smallest_set_with_its_scale_and_bound(self, solver):
        observations = observe(200)
        fitted = fit(observations, MEANS, None, size=200, solver=solver)
        expected = fit_uncertainty_set(*observations, MEANS, solver=solver)
        assert np.array_equal(fitted.uncertainty_set.c, expected.c)
        assert np.array_equal(fitted.uncertainty_set.d, expected.d)
        _, k, bound = robust_probabilities([MEANS @ expected.c], [MEANS @ expected.d])
        assert (fitted.k, fitted.bound) == pytest.approx((k, bound), rel=1e-14)
        assert fitted.failure is None

    def test_of_nothing_but_zeros_is_the_set_of_zeros(self):
        zeros = np.zeros((4, 2)), np.zeros(4), np.ones(4)
        fitted = fit(zeros, np.zeros(2), PREVIOUS, size=4, solver="l-bfgs")
        assert (fitted.uncertainty_set.c.tolist(), fitted.uncertainty_set.d.tolist()) == ([0.0, 0.0], [0.0, 0.0])
        assert (fitted.k, fitted.bound, fitted.failure) == (0.0, 0.0, None)

    def test_that_fails_is_the_set_before_and_says_so(self):
        unexplained = np.array([[0.0, 0.0], [1.0, 1.0]]), np.ones(2), np.ones(2)
        fitted = fit(unexplained, MEANS, PREVIOUS, size=2, solver="l-bfgs")
        assert fitted.uncertainty_set is PREVIOUS
        assert "'l-bfgs' failed" in fitted.failure
        _, _, bound = robust_probabilities([MEANS @ PREVIOUS.c], [MEANS @ PREVIOUS.d])
        assert fitted.bound == pytest.approx(bound)

    @pytest.mark.parametrize("failure", [None, "it is too hot"])
    def test_comes_back_from_a_file(self, failure):
        state = Fit(PREVIOUS, 0.5, 2.0, failure).state_dict()
        restored = Fit.of_state(through_file(state))
        assert_same(restored.state_dict(), state)
        assert restored.failure == failure

    def test_a_state_with_negative_coefficients_is_refused(self):
        state = Fit(PREVIOUS, 0.5, 2.0).state_dict()
        state["d"][1] = -1.0
        with pytest.raises(ValueError, match=r"`UncertaintySet\(d=\.\.\.\)` must be finite and at least 0; got -1\.0"):
            Fit.of_state(state)


class Unlucky(BaseException):
    """What nobody catches by accident."""


class TestRefit:
    @pytest.mark.parametrize("solver", ["cvxpy", "l-bfgs"])
    @pytest.mark.parametrize("previous", [None, PREVIOUS], ids=["first", "later"])
    def test_beside_the_training_is_that_in_its_midst_to_the_bit(self, solver, previous):
        one, other = (
            Refit(observe(300), MEANS, previous, size=100, solver=solver, background=background).result()
            for background in (True, False)
        )
        assert_same(one.state_dict(), other.state_dict())

    def test_has_no_thread_left_when_its_result_is_there(self):
        for _ in range(5):
            under_way = Refit(observe(50), MEANS, None, size=50, solver="l-bfgs", background=True)
            under_way.result()
            assert threads() == []

    def test_that_is_dropped_is_waited_for(self, gate):
        under_way = Refit(observe(50), MEANS, None, size=50, solver="l-bfgs", background=True)
        assert [thread.is_alive() for thread in threads()] == [True]
        threading.Timer(0.2, gate.set).start()
        del under_way
        assert gate.is_set()
        assert threads() == []

    def test_in_the_midst_of_training_has_no_thread(self, gate):
        gate.set()
        before = threading.active_count()
        under_way = Refit(observe(50), MEANS, None, size=50, solver="l-bfgs", background=False)
        assert threading.active_count() == before
        assert under_way.result() is under_way.result()

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Unlucky])
    def test_that_raises_does_so_where_its_result_is_wanted(self, kind, monkeypatch):
        error = kind("out of luck")

        def fail(*arguments, **options):
            raise error

        monkeypatch.setattr(refit, "fit", fail)
        under_way = Refit(background=True)
        for _ in range(2):
            with pytest.raises(kind, match="out of luck") as raised:
                under_way.result()
            assert raised.value is error
        assert threads() == []

    def test_that_is_finished_gives_what_it_was_given(self):
        finished = Fit(PREVIOUS, 0.5, 2.0)
        assert Refit.finished(finished).result() is finished

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_in_a_forked_worker_is_not_waited_for(self, gate):
        under_way = Refit(observe(50), MEANS, None, size=50, solver="l-bfgs", background=True)
        child = os.fork()
        if child == 0:
            del under_way  # whose thread is the parent's
            os._exit(7)
        assert exit_code(child, within=20) == 7
        gate.set()
        assert isinstance(under_way.result(), Fit)


def exit_code(child, within):
    """Return the exit code of a forked child; kill it if it does not end."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_a_process_forked_in_the_midst_of_a_fit_does_it_itself(monkeypatch):
    # what the thread would have done is not done there: of the thread nothing is left
    monkeypatch.setattr(refit, "Thread", Unstarted)
    arguments = (np.ones((4, 1)), np.arange(1.0, 5.0), np.ones(4)), np.ones(1), None
    found = Refit(*arguments, size=4, solver="l-bfgs", background=True).result()
    assert found.uncertainty_set.c == pytest.approx([2.5])
    assert found.uncertainty_set.d == pytest.approx([1.25])


class Unstarted(threading.Thread):
    """A thread as a forked process finds it: ended, without having done anything."""

    def start(self):
        pass

    def join(self, timeout=None):
        pass


class TestSampler:
    def test_that_is_deleted_leaves_no_thread(self, gate):
        sampler = make_sampler(16, 8, predictor="rais", predictor_options=FITTING)
        train(sampler, 5)
        assert [thread.is_alive() for thread in threads()] == [True]
        threading.Timer(0.2, gate.set).start()
        del sampler
        assert gate.is_set()
        assert threads() == []

    def test_that_loads_a_state_leaves_no_thread(self, gate):
        sampler, other = (make_sampler(16, 8, predictor="rais", predictor_options=FITTING) for _ in range(2))
        train(sampler, 5)
        threading.Timer(0.2, gate.set).start()
        sampler.load_state_dict(other.state_dict())
        assert threads() == []

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_forks_workers_while_it_fits(self, monkeypatch):
        original = refit.solve_uncertainty_set

        def solve_slowly(*arguments, **options):
            time.sleep(0.1)
            return original(*arguments, **options)

        monkeypatch.setattr(refit, "solve_uncertainty_set", solve_slowly)
        loader = DataLoader(torch.arange(32), batch_size=8, num_workers=2, multiprocessing_context="fork")
        options = {"observations": 24, "fit_size": 24, "solver": "l-bfgs"}  # from 3 updates on, a fit is under way
        sampler = ApproxSampler(loader, predictor="rais", gate=None, predictor_options=options)
        were_fitting = []
        for _ in range(15):
            were_fitting.append(bool(threads()))
            for batch, draw in sampler:
                assert torch.equal(batch, draw.indices)
                sampler.update(draw, 1.0 + batch % 5)
        assert any(were_fitting)
        assert sampler.metrics()["refits"] > 3


PROGRAM = """
import signal, sys, time
from approx_is import ImportanceSampler
from approx_is.predictors import refit

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what they put aside with it ignored
solve = refit.solve_uncertainty_set

def solve_slowly(*arguments, **options):
    print("fitting", flush=True)
    time.sleep(1.0)
    return solve(*arguments, **options)

refit.solve_uncertainty_set = solve_slowly
options = {"observations": 32, "fit_size": 16, "solver": "l-bfgs", "background": sys.argv[1] == "background"}
sampler = ImportanceSampler(16, 8, predictor="rais", gate=None, predictor_options=options)
for _ in range(int(sys.argv[2])):
    draw = sampler.draw()
    sampler.update(draw, 1.0 + draw.indices)
time.sleep(float(sys.argv[3]))
"""


class TestProgram:
    def start(self, *arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], **pipes)
        assert program.stdout.readline() == "fitting\n"
        return program

    def end(self, program):
        try:
            return program.communicate(timeout=30)[1]
        finally:
            program.kill()
            program.communicate()

    @pytest.mark.parametrize(("mode", "steps", "pause"), [("background", 4, 600), ("here", 4, 0)])
    def test_that_is_interrupted_ends_when_the_fit_does(self, mode, steps, pause):
        program = self.start(mode, steps, pause)
        time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        errors = self.end(program)
        assert program.returncode == -signal.SIGINT
        assert errors.count("Traceback") == 1
        assert errors.endswith("KeyboardInterrupt\n")
        assert "Exception ignored" not in errors

    def test_that_ends_while_it_fits_says_nothing(self):
        program = self.start("background", 4, 0)
        assert self.end(program) == ""
        assert program.returncode == 0
