"""What a sampler takes in memory, measured from outside, and training with a history on disk."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"
STATUS = "Name:\tpython\nVmHWM:\t     900 kB\nVmRSS:\t     600 kB\nRssAnon:\t     100 kB\nRssFile:\t     200 kB\n"
STATUS += "RssShmem:\t     300 kB\nThreads:\t1\n"

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads what Linux tells")


@pytest.fixture
def memory(scripts):
    return scripts("measure_memory")


def grown_by(memory, **changes):
    parts = dict.fromkeys(memory.PARTS, 1.0)
    figures = {"resident": 50.0, "plain_peak": 60.0, "importance_peak": 55.0, "build_peak": 99.0}
    return {"predictor": "lstm", "history_dtype": "float32", "parts": parts, **figures, **changes}


def test_prints_both_tables_and_writes_the_report(memory, monkeypatch, tmp_path, capsys):
    options = [
        "--predictors",
        "last-loss",
        "--num-samples",
        "20000",
        "--mapped",
        "20000",
        "--steps",
        "20",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["measure_memory.py", *options])
    monkeypatch.setattr(memory, "in_a_process", lambda function, *arguments: function(*arguments))
    memory.main()
    printed = capsys.readouterr().out
    assert "| float16 | last-loss |" in printed
    assert "20,000 samples, history mapped" in printed
    assert "100.0% observed" in printed
    report = json.loads((tmp_path / "memory.json").read_text())
    assert [sampler["history_dtype"] for sampler in report["samplers"]] == ["float32", "float16"]
    assert report["mapped"]["coverage"] == 1
    assert report["machine"]["torch"] == torch.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]  # the mapped files are gone


class TestResident:
    def test_tells_a_process_own_memory_from_files(self, scripts):
        resident = scripts("resident_memory").Resident.parse(STATUS)
        assert resident.anonymous == 100 * 1024
        assert resident.mapped == 500 * 1024
        assert resident.total == 600 * 1024
        assert resident.peak == 900 * 1024

    def test_grows_by_what_is_written_and_remembers_the_peak(self, scripts):
        module, size = scripts("resident_memory"), 64 * 2**20
        module.reset_peak()
        before = module.Resident.now()
        written = torch.ones(size, dtype=torch.uint8)
        during = module.Resident.now()
        del written
        module.give_back()  # the allocator may be one that keeps it, after all that this process did before
        after = module.Resident.now()
        assert during.anonymous - before.anonymous == pytest.approx(size, rel=0.1)
        assert after.peak - before.total == pytest.approx(size, rel=0.1)
        assert after.anonymous < before.anonymous + size / 10
        module.reset_peak()
        assert module.Resident.now().peak < before.total + size / 2


class TestASampler:
    def test_grows_the_process_by_what_its_parts_take(self, memory):
        figures = memory.in_a_process(memory.measure, "last-loss", "float32", 1_000_000)
        parts = figures["parts"]
        assert parts["labels"] == 1
        assert parts["permutation"] == 4
        assert parts["tree"] == pytest.approx(4.2, abs=0.2)
        assert parts["other"] < 0.1
        assert figures["resident"] == pytest.approx(sum(parts.values()), rel=0.05)
        assert figures["plain_peak"] >= figures["resident"]

    def test_half_precision_takes_two_bytes_an_observation_less_at_least(self, memory):
        labels = torch.zeros(1000, dtype=torch.int64)
        samplers = [memory.build("last-loss", dtype, labels) for dtype in ("float32", "float16")]
        sizes = [memory.parts_of(sampler)["history"] for sampler in samplers]
        assert sizes[0] - sizes[1] >= 2 * memory.WINDOW * 1000

    def test_parts_sum_to_the_whole_state(self, memory):
        sampler = memory.build("lstm", "float32", torch.zeros(1000, dtype=torch.int64))
        parts = memory.parts_of(sampler)
        assert parts["permutation"] == 0  # made by the first draw
        assert sum(parts.values()) == memory.size_of(sampler.state_dict()) + parts["labels"]
        assert parts["other"] > 4 * sum(p.numel() for p in sampler._learner.predictor.network.parameters())

    def test_size_of_a_state_counts_tensors_at_any_depth(self, memory):
        state = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int8), {"c": torch.zeros(())}], "d": 7}
        assert memory.size_of(state) == 12 + 2 + 4
        assert memory.size_of(None) == 0


class TestTable:
    @pytest.mark.parametrize(("figure", "expected"), [(71.9, "met"), (72.0, "met"), (72.1, "not met")])
    def test_verdict_is_met_up_to_the_target(self, memory, figure, expected):
        assert memory.verdict(figure, 72.0) == expected

    def test_judges_the_higher_of_both_peaks_by_the_target_of_the_type(self, memory):
        samplers = [grown_by(memory), grown_by(memory, history_dtype="float16")]
        rows = memory.table(samplers).splitlines()
        assert rows[2].startswith("| float32 | lstm | 1.0 |")
        assert rows[2].endswith("| 5.0 | 50.0 | 60.0 | 99.0 | ≤ 72 | met |")
        assert rows[3].endswith("| 5.0 | 50.0 | 60.0 | 99.0 | ≤ 48 | not met |")
        later = grown_by(memory, importance_peak=72.3)
        assert memory.table([later]).endswith("| 72.3 | 99.0 | ≤ 72 | not met |")
        assert len({row.count("|") for row in rows}) == 1


class TestMapped:
    def test_trains_with_its_history_on_disk(self, scripts, tmp_path):
        report = scripts("mapped_training").train_mapped(20_000, 100, tmp_path)
        assert report["coverage"] == 1
        assert report["loss"] > report["plain"]["loss"] > report["by_importance"]["loss"]
        assert report["files"]
        assert all(file["on_disk"] >= file["size"] for file in report["files"].values())
        assert sum(file["size"] for file in report["files"].values()) > 4 * 10 * 20_000
        assert report["by_importance"]["mapped"] > 0

    def test_later_draws_are_by_importance(self, scripts, tmp_path):
        training = scripts("mapped_training").MappedTraining(5_000, tmp_path)
        assert training.sampler.draw().is_uniform
        training.finish_first_epoch(math.inf)
        assert not training.sampler.draw().is_uniform

    def test_without_time_draws_the_first_epoch_unobserved(self, scripts, tmp_path):
        training = scripts("mapped_training").MappedTraining(5_000, tmp_path)
        training.step()
        training.finish_first_epoch(0.0)
        assert training.sampler.metrics()["coverage"] == 128 / 5_000
        assert not training.sampler.draw().is_uniform

    def test_features_follow_from_the_index(self, scripts):
        module, indices = scripts("mapped_training"), torch.tensor([7, 99_999_999, 7])
        features = module.features(indices)
        assert features.shape == (3, 10)
        assert torch.equal(features[0], features[2])
        assert not torch.equal(features[0], features[1])

    def test_table_tells_how_many_were_observed_in_which_time(self, scripts):
        module = scripts("mapped_training")
        steps = {"first_draw_ms": 9.0, "draw_ms": 1.0, "update_ms": 2.0, "loss": 0.5}
        steps |= {"anonymous": 1_000_000, "mapped": 2_000_000, "peak": 4_000_000}
        report = {"num_samples": 1000, "build_seconds": 1.0, "build_peak": 5_000_000, "loss": 0.7, "plain": steps}
        report |= {"by_importance": {**steps, "loss": 0.4}, "coverage": 1.0, "fill_seconds": 12.0}
        report |= {"files": {"values.bin": {"size": 3_000_000, "on_disk": 1_000_000}}}
        text = module.mapped_table(report)
        assert "100.0% observed in 12 s" in text
        assert "| by importance | 1.00 | 9.00 | 2.00 | 1 | 2 | 4 | 0.5000 | 0.4000 |" in text
        assert "| values.bin | 3 | 1 |" in text
        assert "90.0% observed in 301 s" in module.mapped_table({**report, "coverage": 0.9, "fill_seconds": 301.0})
