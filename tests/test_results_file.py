"""The results of comparisons: kept once, whoever writes, and in tables against uniform's run of the same seed."""

import itertools
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

DEFAULTS = {
    "predictor": "lstm",
    "k": 1.0,
    "observe": "loss",
    "gate": "none",
    "equal_time": False,
    "reducible": False,
    "annealed": False,
    "steps": 4_000,
    "batch_size": 128,
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "gain": False,
    "eval_every": 100,
    "seed": 0,
    "model": None,
    "smoothing": "adaptive",
    "refresh": 0.5,
    "update_every": None,
    "predictor_options": {},
    "shard": False,
    "device": "cpu",
    "workers": 0,
    "persistent_workers": False,
}
"""Those of `Config` that the runs in docs/results.jsonl.gz were made with."""


@pytest.fixture
def results(scripts, tmp_path):
    return scripts("results_file").ResultsFile(tmp_path / "results.jsonl")


@pytest.fixture
def key(scripts):
    return scripts("results_file").RunKey("shuttle", "lstm:0.5", 0, "c0ffee")


@pytest.fixture
def run(scripts):
    """Return a maker of runs: an evaluation every 100 steps and seconds, with these test errors."""

    def make(*errors, seconds=1.0, captured=None):
        rest = {"balanced_error": 0.5, "class_errors": [0.5, None], "train_loss": 0.25, "batch_loss": 0.5}
        rest |= {"overhead_ms": 1.0, "overhead_percent": 1.0, "effective_sample_share": None, "captured": None}
        rest |= {"learning_rate": 1e-3, "effective_steps": 1.0, "gain_ratio": 1.0, "captured_of_probe": captured}
        return [
            scripts("evaluation").Evaluation(100 * n, seconds * n, error, **rest)
            for n, error in enumerate(errors, start=1)
        ]

    return make


class TestFile:
    def test_gives_back_what_was_put_in(self, results, key, run):
        assert results.runs() == {}
        results.append(key, run(0.25, 0.125))
        results.append(replace(key, seed=1), run(0.5))
        first, last = results.runs()[key]
        assert (first.test_error, last.test_error) == (0.25, 0.125)
        assert (first.class_errors, last.class_errors) == (None, [0.5, None])  # of the end only
        assert len(results.runs()) == 2

    def test_each_row_stands_for_itself(self, results, key, run, tmp_path):
        results.append(key, run(1 / 3))
        (row,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
        assert (row["comparison"], row["method"], row["test_error"]) == ("shuttle", "lstm:0.5", 0.333333)

    def test_a_run_that_was_cut_short_is_not_finished_and_harms_no_other(self, results, key, run, tmp_path):
        results.append(key, run(0.5, 0.25))
        path = tmp_path / "results.jsonl"
        path.write_text(path.read_text()[:-40])
        assert results.runs() == {}
        results.append(replace(key, seed=1), run(0.5))
        results.append(key, run(0.75, 0.125))
        assert {known.seed: [row.test_error for row in own] for known, own in results.runs().items()} == {
            1: [0.5],
            0: [0.75, 0.125],
        }

    def test_of_a_run_that_was_done_twice_the_later_counts(self, results, key, run):
        results.append(key, run(0.5, 0.25))
        results.append(key, run(0.75))
        assert [row.test_error for row in results.runs()[key]] == [0.75]

    def test_a_row_of_something_else_is_named(self, results, tmp_path):
        (tmp_path / "results.jsonl").write_text('{"step": 1}\n')
        with pytest.raises(ValueError, match=r"results\.jsonl, line 1, is no row"):
            results.runs()

    def test_only_one_process_does_a_run(self, scripts, results, key, run, tmp_path):
        other = scripts("results_file").ResultsFile(tmp_path / "results.jsonl")
        with results.claim(key) as first, other.claim(key) as second, other.claim(replace(key, seed=1)) as third:
            assert (first, second, third) == (True, False, True)
            results.append(key, run(0.5))
        with other.claim(key) as again:
            assert not again  # it is finished

    def test_publishes_what_is_asked_for_and_starts_from_it(self, scripts, results, key, run, tmp_path):
        results.append(key, run(0.5, 0.25))
        results.append(replace(key, config="of before"), run(0.1))
        published = tmp_path / "published.jsonl.gz"
        assert results.publish([key, replace(key, seed=9)], published) == 1  # another one is left out
        written = published.read_bytes()
        elsewhere = scripts("results_file").ResultsFile(tmp_path / "elsewhere.jsonl", published)
        assert elsewhere.runs() == {key: results.runs()[key]}
        elsewhere.publish([key], published)
        assert published.read_bytes() == written

    def test_what_is_no_number_is_none(self, results, key, run, tmp_path):
        results.append(key, [replace(run(0.5)[0], train_loss=math.nan, perplexity=math.inf)])
        assert "NaN" not in (tmp_path / "results.jsonl").read_text()
        (row,) = results.runs()[key]
        assert (row.train_loss, row.perplexity) == (None, None)

    def test_the_digest_is_of_what_is_not_as_by_default(self, scripts):
        digest, config = scripts("results_file").digest, scripts("configuration").Config("shuttle")
        assert digest(config) == digest(replace(config, lr=1e-3))
        assert digest(config) != digest(replace(config, lr=1e-2))
        assert digest(config) != digest(replace(config, dataset="digits"))
        assert digest(config) != digest(replace(config, predictor_options={"beta": 1}))

    def test_runs_of_before_are_found_again(self, scripts):
        config = scripts("configuration").Config("shuttle", "lstm", k=0.5, steps=8_000, eval_every=200, seed=1)
        assert scripts("results_file").digest(config) == "e93473cebe91"  # in docs/results.jsonl.gz

    def test_defaults_are_those_that_the_runs_of_before_were_made_with(self, scripts):
        now = asdict(scripts("configuration").Config("shuttle"))
        assert now == {"dataset": "shuttle", **DEFAULTS}, (
            "The defaults of `Config` are not those of the runs in docs/results.jsonl.gz. Digests leave them out: they "
            "would count as runs with the new one. Keep the old one, or delete all runs that do not set the "
            "field, there and in runs/, and do them anew (make results). Of a new field the default must change "
            "nothing. Then write it into DEFAULTS."
        )


class TestSharing:
    def test_comparisons_share_the_runs_that_they_have_in_common(self, scripts, results, run):
        comparisons, jobs = scripts("comparisons"), scripts("jobs")
        rates = comparisons.Comparison("few-rates", ("uniform@0.01",), {"dataset": "shuttle"}, seeds=1)
        few = comparisons.Comparison("few", ("uniform", "lstm"), {"dataset": "shuttle", "lr": 0.01}, seeds=1)
        (tuned,), planned = jobs.plan(rates, results, None), jobs.plan(few, results, None)
        results.append(tuned.key, run(0.5))
        assert list(jobs.finished_runs(planned, results)) == ["uniform"]


class TestEqualTime:
    def test_a_run_in_time_has_the_steps_that_fit(self, scripts, results):
        comparisons, jobs = scripts("comparisons"), scripts("jobs")
        settings = {"dataset": "shuttle", "steps": 1_000, "schedule": "linear"}
        comparison = comparisons.Comparison("few-time", ("uniform", "lstm", "rais"), settings, seeds=1, like="few")
        planned = jobs.plan(comparison, results, None, {"uniform": 1.0, "lstm": 2.5, "last-loss": 1.1})
        assert {job.key.method: job.config.steps for job in planned} == {"uniform": 1_000, "lstm": 400}
        assert [job.config.eval_every for job in planned] == [50, 20]
        assert jobs.plan(comparison, results, None) == []
        slower = jobs.plan(comparison, results, None, {"lstm": 4.0})
        assert slower[0].key != planned[1].key  # other steps are another run

    def test_what_was_not_timed_is_named(self, scripts, monkeypatch, tmp_path, capsys):
        comparisons, compare, equal_time = scripts("comparisons"), scripts("compare"), scripts("equal_time")
        settings = {"dataset": "shuttle", "steps": 5}
        few = comparisons.Comparison("few-time", ("uniform", "lstm", "rais"), settings, like="few")
        monkeypatch.setattr(compare, "PRESETS", {"results": (few,)})
        monkeypatch.setattr(
            compare, "read_step_times", lambda: {"few": equal_time.StepTimes({}, {"uniform": 1.0, "lstm": 2.0})}
        )
        monkeypatch.setattr("sys.argv", f"compare.py --preset results --report-only --out {tmp_path}".split())
        compare.main()
        assert "few-time: not timed, so left out: rais; run step_times.py --only few\n" in capsys.readouterr().err

    def test_the_cost_of_runs_is_of_seeds_in_common(self, scripts, run):
        cost = scripts("equal_time").relative_cost
        baselines = {0: run(0.5, seconds=1.0), 1: run(0.5, seconds=3.0)}
        assert cost({0: run(0.5, seconds=2.0), 1: run(0.5, seconds=6.0), 2: run(0.5)}, baselines) == 2
        assert cost({2: run(0.5)}, baselines) is None

    def test_a_damaged_file_is_named(self, scripts, tmp_path):
        (tmp_path / "times.json").write_text("{")
        with pytest.raises(ValueError, match=r"times\.json is damaged"):
            scripts("equal_time").read_step_times(tmp_path / "times.json")
        assert scripts("equal_time").read_step_times(tmp_path / "none.json") == {}

    def test_steps_are_timed_in_turns_once(self, scripts, monkeypatch, tmp_path):
        comparisons, times = scripts("comparisons"), scripts("step_times")
        settings = {"dataset": "shuttle", "steps": 5, "batch_size": 8}
        methods = ("uniform", "gradient-norm:1:upper-bound", "last-loss:1:upper-bound+gate", "rais:0.5")
        few = comparisons.Comparison("few", methods, settings)
        monkeypatch.setattr(times, "EVIDENCE", (few,))
        monkeypatch.setattr(times, "ROUNDS", 1)
        monkeypatch.setattr(times, "TURNS", 2)
        monkeypatch.setattr("sys.argv", ["step_times.py", "--out", str(tmp_path / "times.json")])
        times.main()
        measured = scripts("equal_time").read_step_times(tmp_path / "times.json")["few"]
        assert list(measured.steps) == list(methods[:2])
        assert [run.is_open for run in measured.runs[methods[2]]] == [False] * times.WHOLE_RUNS  # after five steps
        assert [run.is_open for run in measured.runs[methods[3]]] == [None] * times.WHOLE_RUNS  # it has no gate
        for method in methods[2:]:
            assert measured.costs[method] == sorted(run.ratio for run in measured.runs[method])[1]
        monkeypatch.setattr(times, "measure", None)
        monkeypatch.setattr(times, "measure_runs", None)
        times.main()  # has them all

    def test_a_cost_is_of_all_steps_and_so_of_what_is_done_at_intervals(self, scripts, monkeypatch):
        comparisons, times = scripts("comparisons"), scripts("step_times")
        few = comparisons.Comparison("few", ("uniform", "svrg@0.1"), {"dataset": "shuttle"})
        clock = [0.0]

        def steps(every):
            for step in itertools.count():
                clock[0] += 101.0 if every and step % every == 0 else 1.0
                yield step

        every = {"uniform": 0, "svrg@0.1": 80}
        monkeypatch.setattr(
            times, "start", lambda comparison, text, task: SimpleNamespace(steps=lambda: steps(every[text]))
        )
        monkeypatch.setattr(times, "thread_time", lambda: clock[0])
        costs = times.measure(few, list(every), None)
        assert costs == pytest.approx({"uniform": 1, "svrg@0.1": 1 + 100 / 80}, rel=1e-3)

    def test_times_of_another_machine_are_not_added_to(self, scripts, tmp_path):
        recorded, path = scripts("equal_time").recorded, tmp_path / "times.json"
        with recorded("few", {"cpu": "A"}, path) as times:
            times.steps["uniform"] = 1.0
        before = path.read_text()
        with pytest.raises(ValueError, match="from another machine"), recorded("few", {"cpu": "B"}, path) as times:
            pass
        assert path.read_text() == before
        with recorded("other", {"cpu": "B"}, path) as times:
            times.steps["uniform"] = 1.0
        assert scripts("equal_time").read_step_times(path)["few"].steps == {"uniform": 1.0}


class TestTable:
    def cells(self, scripts, runs, epoch=1.0, costs=None):
        lines = scripts("tables").comparison_table(runs, epoch=epoch, costs=costs).splitlines()
        header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line)
        return {row[0]: dict(zip(header, row, strict=True)) for row in rows}

    def test_each_seed_is_compared_with_uniforms_run_of_it(self, scripts, run):
        uniform = {0: run(0.5, 0.4, 0.2, seconds=1.0), 1: run(0.5, 0.4, 0.4, seconds=1.0)}
        other = {0: run(0.2, 0.2, 0.1, seconds=2.0), 1: run(0.5, 0.4, 0.3, seconds=2.0), 2: run(0.0, 0.0, 0.0)}
        row = self.cells(scripts, {"uniform": uniform, "other": other})["other"]
        assert row["of uniform's"] == "0.67 ± 0.47"  # a third of the steps, and as many
        assert row["in seconds"] == "1.33"
        assert row["seeds"] == "2 of 2"
        assert row["error of uniform's"] == "0.69 ± 0.33"  # of 0.5 / 1.1 and 1.2 / 1.3
        assert row["step time"] == "2.00"

    def test_where_steps_were_timed_the_seconds_of_the_runs_do_not_count(self, scripts, run):
        runs = {label: {0: run(0.5, 0.4, seconds=seconds)} for label, seconds in (("uniform", 1.0), ("other", 9.0))}
        rows = self.cells(scripts, runs | {"untimed": runs["other"]}, costs={"uniform": 1.0, "other": 1.5})
        assert (rows["other"]["in seconds"], rows["other"]["step time"]) == ("1.50", "1.50")
        assert (rows["untimed"]["in seconds"], rows["untimed"]["step time"]) == ("-", "-")
        assert rows["untimed"]["of uniform's"] == "1.00"

    def test_captured_is_the_mean_after_the_first_epochs(self, scripts, run):
        other = {0: run(0.5, 0.5, captured=0.5), 1: run(0.5, captured=0.9)}
        runs = {"uniform": {0: run(0.5, captured=0.0)}, "other": other}
        assert self.cells(scripts, runs, epoch=100.0)["other"]["captured"] == "0.50"  # step 200 alone
        assert self.cells(scripts, runs)["uniform"]["captured"] == "0.00"

    def test_a_method_that_never_gets_there_has_no_steps(self, scripts, run):
        row = self.cells(scripts, {"uniform": {0: run(0.1)}, "other": {0: run(math.nan)}})["other"]
        assert (row["of uniform's"], row["seeds"]) == ("-", "0 of 1")

    def test_without_uniform_nothing_is_relative(self, scripts, run):
        cells = self.cells(scripts, {"a": {0: run(0.5, 0.25), 1: run(0.25)}, "b": {0: run(0.75)}})
        assert cells["a"]["best error %"] == "25.00 ± 0.00"
        assert cells["b"] == {
            "method": "b",
            "seeds": "1",
            "best error %": "75.00",
            "error %": "75.00",
            "train loss": "0.2500",
        }


class TestDocument:
    def test_tables_come_into_their_places(self, scripts):
        text = "one\n<!-- table: a -->\nold\n<!-- end -->\ntwo\n<!-- table: b -->\n<!-- end -->\n"
        filled = scripts("results_document").filled
        once = filled(text, {"a": "| new |\n"})
        assert once == "one\n<!-- table: a -->\n\n| new |\n\n<!-- end -->\ntwo\n<!-- table: b -->\n<!-- end -->\n"
        assert filled(filled(text, {"a": "else", "b": "c"}), {"a": "| new |\n"}).endswith("\n\nc\n\n<!-- end -->\n")

    def test_the_overview_has_steps_and_the_end_over_uniforms(self, scripts, run):
        runs = {"uniform": {0: run(0.5, 0.25)}, "good": {0: run(0.25, 0.125)}, "bad": {0: run(1.0, 0.5)}}
        score = scripts("scores").TEST_ERROR
        overview = scripts("overview")
        row = overview.OverviewRow("Few", runs, score, seeds=1)
        table = overview.overview_table([row], ["good", "bad", "none"])
        assert table.splitlines()[2] == "| Few | 0.50 / 0.50 | - / 2.00 |  |"
        table = overview.overview_table([replace(row, costs={"good": 3.0}, seeds=3)], ["good"])
        assert table.splitlines()[2] == "| Few | 1.50 / 0.50 (1 of 3 seeds) |"

    def test_gates_have_the_median_run_and_how_many_are_open(self, scripts):
        gated = scripts("equal_time").WholeRun
        runs = [gated(1.25, 3.0, True, 2.0), gated(1.0, 2.0, False, None), gated(1.125, 4.0, True, 3.0)]
        table = scripts("overview").gates_table({"Few": {"lstm": runs, "rais": runs[1:2]}})
        assert table.splitlines()[2:] == [
            "| Few | lstm | 3 ms | 1.12 (1.00 to 1.25) | open in 2 of 3 | 2.0 to 3.0 times |",
            "| Few | rais | 2 ms | 1.00 (1.00 to 1.00) | closed | - |",
        ]

    def test_draws_overview_and_figures_that_the_document_shows(self, scripts, results, key, run, tmp_path):
        comparisons, jobs, reports = scripts("comparisons"), scripts("jobs"), scripts("reports")
        comparison = comparisons.Comparison("few", ("uniform", "lstm:0.5"), {"dataset": "shuttle", "steps": 2}, seeds=1)
        planned = jobs.plan(comparison, results, None)
        for job in planned:
            results.append(job.key, [replace(row, class_errors=[0.5] * 7) for row in run(0.5, 0.25)])
        report = reports.Report(comparison, planned, results)
        document = tmp_path / "page.md"
        document.write_text(
            "![](page/few.png)\n<!-- table: few -->\n<!-- end -->\n<!-- table: overview -->\n<!-- end -->\n"
        )
        reports.write_documents([document], [report])
        assert "| lstm, k = 0.5 |" in document.read_text()
        assert "| Shuttle |" in document.read_text()
        assert {path.name for path in (tmp_path / "page").iterdir()} == {"few.png", "overview.png"}


class TestComparisons:
    def test_every_run_of_the_evidence_is_one_that_can_be_planned(self, scripts, results):
        planned, comparisons = scripts("jobs").plan, scripts("comparisons")
        for each in comparisons.EVIDENCE:
            jobs = planned(each, results, None, dict.fromkeys(each.parsed, 2.0))
            assert len({job.key for job in jobs}) == len(jobs) == each.seeds * len(each.parsed)
        assert len({each.name for each in comparisons.EVIDENCE}) == len(comparisons.EVIDENCE)
        names = {each.name for each in comparisons.EVIDENCE}
        assert {each.like for each in comparisons.EVIDENCE} <= {None, *names}


class TestCommand:
    @pytest.fixture
    def compare(self, scripts, monkeypatch, tmp_path):
        """Return a function that runs `compare.py` with one small comparison as its preset."""
        module, comparisons = scripts("compare"), scripts("comparisons")
        few = comparisons.Comparison("few", ("uniform", "lstm:0.5"), {"dataset": "shuttle", "steps": 2}, seeds=1)
        monkeypatch.setattr(module, "PRESETS", {"results": (few,)})

        def run(*options):
            monkeypatch.setattr("sys.argv", ["compare.py", "--out", str(tmp_path), *map(str, options)])
            module.main()
            return scripts("jobs").plan(few, scripts("results_file").ResultsFile(tmp_path / "results.jsonl"), None)

        return run

    def test_publishes_what_is_finished_and_fills_in_the_document(self, scripts, compare, run, key, tmp_path, capsys):
        document, published = tmp_path / "page.md", tmp_path / "published.jsonl.gz"
        document.write_text("<!-- table: few -->\n<!-- end -->\n")
        command = ("--preset", "results", "--publish", published, "--document", document, "--report-only")
        for job in compare(*command):
            job.results.append(job.key, [replace(row, class_errors=[0.5] * 7) for row in run(0.5, 0.25)])
        job.results.append(key, run(0.5))  # of something else
        planned = compare(*command)
        assert "| lstm, k = 0.5 |" in document.read_text()
        assert set(scripts("results_file").read_runs(published)) == {job.key for job in planned}
        assert "1 finished runs are not planned" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "options",
        [
            ("--methods", "uniform", "--only", "few"),
            ("--methods", "uniform", "--publish", "some.jsonl"),
            ("--preset", "results", "--methods", "uniform"),
            ("--preset", "results", "--only", "few", "--document", "page.md"),
        ],
    )
    def test_options_that_exclude_each_other_are_refused(self, compare, options, capsys):
        with pytest.raises(SystemExit):
            compare(*options)
        assert "error: --" in capsys.readouterr().err
