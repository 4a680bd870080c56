"""The benchmark of overheads: end to end on a few samples, its parts, and what it says of them."""

import json
import math
import platform
import sys
from pathlib import Path

import pytest
import torch

from approx_is import ImportanceSampler

SCRIPTS = Path(__file__).parent.parent / "scripts"
CPU = torch.device("cpu")
SIZES = {"num_samples": 64, "batch_size": 8}


@pytest.fixture
def run_script(scripts, monkeypatch):
    """Run the benchmark in this process, which has imported everything already, on a few samples."""

    def run(*arguments):
        few = ["--samples", 64, "--batch-size", 4, "--rounds", 2, "--threads", 1]
        monkeypatch.setattr(sys, "argv", ["benchmark_overhead.py", *map(str, [*few, *arguments])])
        monkeypatch.setattr(scripts("overhead_measure"), "OBSERVATIONS", 64)
        monkeypatch.setattr(scripts("benchmark_overhead"), "CLOSED_GATE_STEPS", 1)
        scripts("benchmark_overhead").main()

    return run


@pytest.fixture
def make_loop(scripts):
    """Return a loop around the MLP whose sampler is settled."""

    def make(predictor):
        workload = scripts("workloads").Workload("mlp", **SIZES, device=CPU)
        loop = scripts("overhead_loops").SampledLoop(workload, predictor)
        loop.settle()
        return loop

    return make


def counting_clock():
    """Return a clock that says how often it was asked: what it times are calls, not seconds."""
    return iter(range(10**9)).__next__


class TestScript:
    def test_measures_every_model_that_suits_a_cpu(self, run_script, tmp_path, capsys):
        run_script("--predictors", "lstm", "last-loss", "--out", tmp_path)
        report = json.loads((tmp_path / "overhead.json").read_text())
        assert list(report["models"]) == ["paper", "small-cnn", "mlp", "lstm-lm"]
        for measured in report["models"].values():
            assert measured["rounds"] == 2
            assert 0 < measured["loading_ms"] < measured["uniform_step_ms"]
            for overhead in measured["predictors"].values():
                assert overhead["total_ms"] == pytest.approx(sum(overhead["parts_ms"].values()))
                assert overhead["percent"] == pytest.approx(100 * overhead["total_ms"] / measured["uniform_step_ms"])
        assert report["closed_gate_percent"].keys() == {"small-cnn", "mlp"}
        assert (report["threads"], report["batch_size"], report["num_samples"]) == (1, 4, 64)
        assert report["machine"]["torch"] == torch.__version__
        targets = {(target["model"], target["predictor"]): target["target"] for target in report["targets"]}
        assert targets == {("paper", "lstm"): 3, ("paper", "last-loss"): 0.5, ("small-cnn", "lstm"): 15}
        assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr().out
        assert "`lstm` beside the small CNN: " in printed
        assert "A closed gate beside the MLP: " in printed

    def test_measures_every_predictor_by_part(self, run_script, tmp_path, capsys):
        run_script("--models", "mlp", "--out", tmp_path)
        predictors = json.loads((tmp_path / "overhead.json").read_text())["models"]["mlp"]["predictors"]
        assert predictors.keys() >= {"uniform", "last-loss", "rank", "class-gaussian", "lstm", "rais", "upper-bound"}
        assert "gradient-norm" not in predictors
        common = ["drawing", "weighting", "history", "training", "prediction", "tree", "rest"]
        assert list(predictors["lstm"]["parts_ms"]) == common
        assert list(predictors["rais"]["parts_ms"]) == [*common, "refits"]
        assert list(predictors["upper-bound"]["parts_ms"]) == ["drawing", "scoring", *common[1:]]
        assert "| ms | drawing | scoring | weighting |" in capsys.readouterr().out

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_the_resnet_is_for_cuda(self, run_script, tmp_path, device):
        with pytest.raises(SystemExit, match=r"^benchmark_overhead\.py: error: `--models resnet-18` needs[^\n]*$"):
            run_script("--models", "mlp", "resnet-18", "--device", device, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_refuses_a_device_that_torch_does_not_know(self, run_script, tmp_path):
        with pytest.raises(SystemExit, match=r"error: `--device` must be one that torch has here; got 'abacus'"):
            run_script("--device", "abacus", "--out", tmp_path / "out")

    def test_rounds_are_the_users_else_the_presets(self, scripts):
        rounds_of = scripts("benchmark_overhead").rounds_of
        assert rounds_of("paper", 5, "short") == 5
        assert rounds_of("paper", None, "short") < rounds_of("mlp", None, "short") < rounds_of("mlp", None, None) == 30


class TestParts:
    @pytest.mark.parametrize("predictor", ["lstm", "upper-bound"])
    def test_parts_are_all_of_draw_and_update(self, make_loop, scripts, predictor):
        loop, parts = make_loop(predictor), scripts("overhead_parts")
        with parts.timers(loop.sampler, counting_clock()) as times:
            loop.step()
        split = parts.split_update(times)
        assert all(count > 0 for count in split.values())
        within = sum(split[part] for part in (*parts.WITHIN_UPDATE, "rest"))
        assert within == times["update"]
        assert ("scoring" in split) == (predictor == "upper-bound")

    def test_timers_are_gone_afterwards(self, make_loop, scripts):
        loop, parts = make_loop("last-loss"), scripts("overhead_parts")
        before = {name: vars(scripts("approx_is.feedback"))[name] for name in ("average_duplicates",)}
        inner = parts.inner_sampler(loop.sampler)
        with parts.timers(loop.sampler, counting_clock()) as times:
            assert "update" in vars(inner)
            loop.step()
        assert not {"update", "request", "choose"} & vars(inner).keys()
        assert {name: vars(scripts("approx_is.feedback"))[name] for name in before} == before
        taken = dict(times)
        loop.step()
        assert times == taken

    @pytest.mark.parametrize("path", ["_sampler._learner.history", "_sampler._hippocampus", "approx_is.nowhere"])
    def test_a_function_that_is_no_more_is_an_error(self, make_loop, scripts, monkeypatch, path):
        parts = scripts("overhead_parts")
        monkeypatch.setattr(parts, "CALLS", (*parts.CALLS, ("history", path, "engrave")))
        with pytest.raises(RuntimeError, match=rf"^`history`, a part .+ `{path}\.engrave` .+ `overhead_parts\.CALLS`"):
            make_loop("last-loss").steps_by_part(counting_clock())

    def test_a_function_that_nobody_calls_is_an_error(self, make_loop, scripts, monkeypatch):
        parts = scripts("overhead_parts")
        calls = tuple(row for row in parts.CALLS if row[0] != "tree")
        monkeypatch.setattr(parts, "CALLS", (*calls, ("tree", "_sampler", "metrics")))
        with pytest.raises(RuntimeError, match=r"^`tree`, a part of .+ `_sampler\.metrics` is not what is called"):
            make_loop("last-loss").steps_by_part(counting_clock())


class TestLoops:
    def test_a_settled_sampler_draws_by_importance_from_full_windows(self, scripts):
        sampler = ImportanceSampler(64, 8, predictor="last-loss", gate=None)
        scripts("overhead_loops").settle(sampler)
        assert not sampler.draw().is_uniform
        assert sampler._learner.history.counts(torch.arange(64)).eq(10).all()
        assert sampler.probabilities().unique().numel() > 32
        assert sampler._learner.due(torch.arange(8), 1, warming_up=False).numel() == 8

    def test_equal_losses_keep_the_gate_closed(self, scripts):
        workload = scripts("workloads").Workload("mlp", **SIZES, device=CPU)
        loop = scripts("overhead_loops").SampledLoop(workload, "lstm", gate="auto", losses_are_equal=True)
        draws = [loop.step() for _ in range(40)]
        assert all(draw.is_uniform for draw in draws)
        assert not loop.sampler.gate.is_open
        assert loop.sampler.metrics()["coverage"] == 0

    def test_a_closed_gate_is_timed_over_whole_periods(self, scripts, monkeypatch):
        measure = scripts("overhead_measure")
        monkeypatch.setattr(measure, "clock_of", lambda device: counting_clock())
        monkeypatch.setattr(measure, "weighting", lambda *arguments, **options: 0.5)
        workload = scripts("workloads").Workload("mlp", **SIZES, device=CPU)
        # by the clock that counts: a plain step is 1; a draw and an update are 1 each
        assert measure.closed_gate_percent(workload, rounds=33) == pytest.approx(100 * (2 + 0.5))

    def test_refits_add_to_the_median(self, scripts, monkeypatch):
        measure = scripts("overhead_measure")
        monkeypatch.setattr(measure, "OBSERVATIONS", 64)
        monkeypatch.setattr(measure, "settle", lambda sampler: None)
        times = iter([0.0] * 16 * 2 + [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 17])
        monkeypatch.setattr(measure, "clock_of", lambda device: times.__next__)
        assert measure.refit_time("rais", **SIZES, device=CPU) == pytest.approx(2.0)


class TestWorkloads:
    @pytest.mark.parametrize("name", ["mlp", "lstm-lm"])
    def test_the_mean_of_the_samples_losses_is_the_mean_loss(self, scripts, name):
        workloads = scripts("workloads")
        workload = workloads.Workload(name, num_samples=8, batch_size=4, device=CPU)
        inputs, targets = next(iter(workload.loader))
        logits = workload.outputs(inputs)
        losses = workloads.sample_losses(logits, targets)
        assert losses.shape == (4,)
        torch.testing.assert_close(losses.mean(), workloads.mean_loss(logits, targets))

    @pytest.mark.parametrize("name", ["mlp", "lstm-lm", "resnet-18"])
    def test_both_steps_train_and_candidates_can_be_scored(self, scripts, name):
        workload = scripts("workloads").Workload(name, num_samples=4, batch_size=2, device=CPU)
        batch = next(iter(workload.loader))
        draw = ImportanceSampler(4, 2).draw()
        assert workload.weighted_step(batch, draw).shape == workload.upper_bounds(workload.model, batch).shape == (2,)
        before = [parameter.detach().clone() for parameter in workload.model.parameters()]
        workload.uniform_step(batch)
        changed = [not torch.equal(*pair) for pair in zip(before, workload.model.parameters(), strict=True)]
        assert all(changed)

    def test_classes_are_known_of_images_only(self, scripts):
        make = scripts("workloads").Workload
        assert make("mlp", **SIZES, device=CPU).labels.shape == (64,)
        assert make("lstm-lm", **SIZES, device=CPU).labels is None

    def test_the_resnet_has_as_many_parameters_as_the_papers_layers(self, scripts):
        model = scripts("resnet").resnet_18(3, 10)
        assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


class TestReport:
    def test_verdicts_are_of_what_was_measured(self, scripts):
        report = scripts("overhead_report")
        percents = {"paper": {"lstm": 3.0, "rais": 1.6, "rank": 99.0}, "resnet-18": {"lstm": 1.0}, "mlp": {"lstm": 9.0}}
        judged = report.verdicts(percents, "cpu")
        assert [(verdict.predictor, verdict.target, verdict.is_met) for verdict in judged] == [
            ("lstm", 3.0, True),
            ("rais", 1.5, False),
        ]
        assert str(judged[1]).endswith("1.60 % of a step, target at most 1.5 %: not met")
        assert [verdict.model for verdict in report.verdicts(percents, "cuda")] == ["resnet-18"]

    def test_an_overhead_that_is_unknown_meets_no_target(self, scripts):
        (verdict,) = scripts("overhead_report").verdicts({"small-cnn": {"lstm": math.nan}}, "cpu")
        assert not verdict.is_met

    def test_dear_bars_do_not_hide_the_others(self, scripts):
        measure = scripts("overhead_measure")
        overheads = {
            "lstm": measure.Overhead({"training": 2.0, "rest": 1.0}, percent=3.0, loop_percent=3.0),
            "upper-bound": measure.Overhead({"scoring": 90.0}, percent=90.0, loop_percent=90.0),
        }
        end_of_axis = scripts("overhead_plot").end_of_axis
        assert end_of_axis(measure.Measurement(1, 100.0, 1.0, overheads)) == pytest.approx(1.3 * 3)
        del overheads["lstm"]
        assert end_of_axis(measure.Measurement(1, 100.0, 1.0, overheads)) == pytest.approx(1.3 * 90)


def test_the_machine_is_told_in_words(scripts):
    description = scripts("machine").describe()
    assert description["torch"] == torch.__version__
    assert description["python"] == platform.python_version()
    assert all(isinstance(value, str) and value for value in description.values())
