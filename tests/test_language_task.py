"""Language modelling with the scripts: the text, its samples, the network, and what an evaluation says."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def run_script(scripts, monkeypatch):
    """Run a script in this process, which has imported everything already."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        scripts(name).main()

    return run


@pytest.fixture
def ptb(tmp_path):
    """Return a folder with files like those of Penn Treebank, of twelve words."""
    generator = np.random.default_rng(0)
    for part, lines in {"train": 60, "test": 20}.items():
        words = generator.choice([*"abcdefghij", "<unk>"], (lines, 8))
        (tmp_path / f"ptb.{part}.txt").write_text("".join(f" {' '.join(line)} \n" for line in words))
    return tmp_path


class TestText:
    def test_the_bible_has_the_tokens_that_it_is_said_to_have(self, scripts):
        kjv = scripts("kjv")
        books = kjv.read_books()
        assert (len(books), sum(map(len, books.values()))) == (66, 31_102)
        tokens = {book: kjv.tokens(verses) for book, verses in books.items()}
        assert sum(map(len, tokens.values())) == 944_526
        assert len({token for of_book in tokens.values() for token in of_book}) == 12_833
        first = " ".join(tokens["Genesis"][:12])
        assert first == "in the beginning god created the heaven and the earth . <eos>"

    def test_books_begin_and_end_where_they_do(self, scripts):
        books = scripts("kjv").read_books()
        assert books["Exodus"][0].startswith("Now these are the names of the children of Israel")
        assert books["Psalms"][0].startswith("Blessed is the man that walketh not in the counsel of the ungodly")
        assert books["Malachi"][-1].endswith("lest I come and smite the earth with a curse.")
        assert books["Mark"][0].startswith("The beginning of the gospel of Jesus Christ")
        assert books["Revelation"][-1] == "The grace of our Lord Jesus Christ be with you all. Amen."
        testaments = [set(list(books)[:39]), set(list(books)[39:])]
        assert all(testament & set(scripts("kjv").TEST_BOOKS) for testament in testaments)

    def test_the_bible_is_split_by_book_without_copies_of_contexts(self, scripts):
        task = scripts("tasks").load_task("kjv")
        assert task.input_shape == (20,)
        assert 0.05 < len(task.test) / (len(task.train) + len(task.test)) < 0.10
        assert task.train.inputs.untyped_storage().nbytes() == 8 * (len(task.train) + 20)
        words = " ".join(task.class_names[token] for token in task.test.inputs[20])
        assert words == "now it came to pass in the days when the judges ruled , that there was a famine in the"
        assert task.class_names[task.test.targets[20]] == "land"  # of Ruth, the first of the test books
        assert task.class_names[-1] == "<unk>"
        assert task.test_counts[-1] == 0

    def test_a_sample_is_a_word_and_the_twenty_before_it(self, scripts):
        samples = scripts("text").next_words({"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}, [*"ab" * 15, "c", "<eos>"])
        assert len(samples) == 32
        assert samples.targets.tolist() == [2, 3] * 15 + [1, 0]
        assert samples[0][0].tolist() == [0] * 20
        assert samples[3][0].tolist() == [0] * 17 + [2, 3, 2]
        inputs, targets = samples.__getitems__([31, 3])
        assert inputs.tolist() == [[3] + [2, 3] * 9 + [1], [0] * 17 + [2, 3, 2]]
        assert targets.tolist() == [0, 3]

    def test_words_that_training_never_saw_are_unknown_and_predicted_only_if_it_saw_such(self, scripts):
        make = scripts("text").language_model_task
        task = make("x", "X", ["a", "b", "a", "<eos>"], ["a", "c", "b", "<eos>"])
        assert task.class_names == ("a", "b", "<eos>", "<unk>")
        assert task.test.targets.tolist() == [0, 1, 2]  # not of c
        assert task.test.inputs[:, -1].tolist() == [2, 3, 1]  # but after it
        task = make("x", "X", ["a", "<unk>", "a", "<eos>"], ["a", "c", "<eos>"])
        assert task.class_names == ("a", "<unk>", "<eos>")
        assert task.test.targets.tolist() == [0, 1, 2]

    def test_reads_the_files_of_penn_treebank(self, scripts, ptb, monkeypatch):
        (ptb / "simple-examples").mkdir()
        (ptb / "simple-examples" / "data").mkdir()
        for path in ptb.glob("ptb.*"):
            path.rename(ptb / "simple-examples" / "data" / path.name)
        monkeypatch.setenv("APPROX_IS_DATA", str(ptb))
        task = scripts("text").penn_treebank(None)
        assert (len(task.train), len(task.test), len(task.class_names)) == (60 * 9, 20 * 9, 12)

    def test_says_in_one_line_how_to_get_penn_treebank(self, scripts, tmp_path, monkeypatch):
        monkeypatch.delenv("APPROX_IS_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match=r"^[^\n]*simple-examples\.tgz[^\n]*--data-dir\.$"):
            scripts("text").penn_treebank(tmp_path)

    def test_refuses_text_without_words(self, scripts):
        with pytest.raises(ValueError, match="`--dataset ptb` has 2 words to train and 0 to test on"):
            scripts("text").language_model_task("ptb", "Penn Treebank", ["a", "<eos>"], [])


class TestOptions:
    @pytest.mark.parametrize(
        ("kind", "dataset", "expected"),
        [(None, None, "shuttle"), ("lm", None, "kjv"), ("lm", "ptb", "ptb"), (None, "kjv", "kjv")],
    )
    def test_task_and_data_set_may_each_be_left_out(self, scripts, kind, dataset, expected):
        assert scripts("tasks").dataset_of(kind, dataset) == expected

    def test_a_data_set_of_another_task_is_refused(self, run_script, tmp_path):
        with pytest.raises(SystemExit, match=r"one of kjv, kjv-small, ptb for `--task lm`; got 'shuttle'\.$"):
            run_script("train", "--task", "lm", "--dataset", "shuttle", "--out", tmp_path / "run")

    @pytest.mark.parametrize(("model", "kind"), [("mlp", "lm"), ("lstm", "classification")])
    def test_a_network_of_another_task_is_refused(self, scripts, model, kind):
        with pytest.raises(ValueError, match=rf"`--model` must be one of .* for `--task {kind}`; got '{model}'"):
            scripts("models").build_model(model, (20,), 10, kind)


class TestNetwork:
    def test_has_the_layers_of_the_paper(self, scripts):
        model = scripts("models").build_model("lstm", (20,), 100, "lm")
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        assert shapes["embedding.weight"] == (100, 64)
        assert shapes["lstm.weight_hh_l0"] == (4 * 256, 256)
        assert shapes["linear.weight"] == (100, 256)
        assert len(shapes) == 7
        assert model.dropout.p == 0.5

    def test_predicts_by_the_state_after_the_last_word(self, scripts):
        torch.manual_seed(0)
        model = scripts("language_model").NextWordLSTM(5).eval()
        words = torch.tensor([[0, 1, 2], [3, 1, 4]])
        state = (torch.zeros(1, 1, 256), torch.zeros(1, 1, 256))
        for word in words[1]:
            output, state = model.lstm(model.embedding(word.view(1, 1)), state)
        torch.testing.assert_close(model(words)[1], model.linear(output[0, 0]))


class TestEvaluation:
    def test_logits_come_in_parts_and_add_up_to_the_whole(self, scripts, monkeypatch):
        evaluation = scripts("evaluation")
        generator = torch.Generator().manual_seed(0)
        inputs, targets = torch.randn(50, 4, generator=generator), torch.arange(50) % 7
        model, seen = nn.Linear(4, 7), []
        model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
        samples = scripts("samples").InMemoryDataset(inputs, targets)
        monkeypatch.setattr(evaluation, "PART_VALUES", 7 * 8)
        loss, predictions = evaluation.loss_and_predictions(model, samples, torch.device("cpu"))
        assert seen == [1, 8, 8, 8, 8, 8, 8, 2]
        assert model.training
        logits = model(inputs)
        assert loss == pytest.approx(F.cross_entropy(logits, targets).item())
        assert torch.equal(predictions, logits.argmax(1))

    def test_more_classes_than_a_part_may_hold_come_sample_by_sample(self, scripts, monkeypatch):
        evaluation = scripts("evaluation")
        monkeypatch.setattr(evaluation, "PART_VALUES", 6)
        samples = scripts("samples").InMemoryDataset(torch.randn(3, 7), torch.tensor([0, 1, 2]))
        parts = list(evaluation.logits_in_parts(nn.Identity(), samples, torch.device("cpu")))
        assert [tuple(logits.shape) for logits, _ in parts] == [(1, 7)] * 3
        assert torch.equal(torch.cat([logits for logits, _ in parts]), samples.inputs)

    def test_evaluates_a_fixed_part_of_the_words_in_perplexity(self, scripts, ptb):
        task = scripts("text").penn_treebank(ptb)
        object.__setattr__(task, "evaluated", 50)
        training = scripts("training").Training(scripts("configuration").Config("ptb", predictor="uniform"), task)
        next(training.steps())
        row = training.evaluate()
        chosen = torch.randperm(
            len(task.test), generator=torch.Generator().manual_seed(scripts("evaluation").PROBE_SEED)
        )[:50]
        training.model.eval()
        logits = training.model(task.test.inputs[chosen])
        assert row.perplexity == pytest.approx(math.exp(F.cross_entropy(logits, task.test.targets[chosen]).item()))
        assert row.test_error == pytest.approx((logits.argmax(1) != task.test.targets[chosen]).double().mean().item())
        assert row.class_errors is None
        assert row.balanced_error is None

    def test_the_perplexity_of_a_network_that_diverged_is_no_error(self, scripts):
        assert scripts("evaluation").perplexity(1e4) == math.inf
        assert math.isnan(scripts("evaluation").perplexity(math.nan))


def test_trains_and_says_the_perplexity(run_script, ptb, tmp_path, capsys):
    options = ["--task", "lm", "--dataset", "ptb", "--data-dir", ptb, "--predictor", "lstm", "--k", 0.5]
    run_script("train", *options, "--steps", 6, "--eval-every", 3, "--out", tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert 10 < rows[-1]["perplexity"] < 14  # words at random, of twelve
    output = capsys.readouterr()
    assert output.out.startswith(f"test perplexity {rows[-1]['perplexity']:.1f}, training loss ")
    assert f"test perplexity {rows[0]['perplexity']:.1f}" in output.err
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "run").glob("events*"))  # of TensorBoard, which was not asked for


def test_methods_are_compared_by_perplexity(run_script, ptb, tmp_path, capsys):
    options = ["--task", "lm", "--dataset", "ptb", "--data-dir", ptb, "--seeds", 1, "--jobs", 1]
    options += ["--methods", "uniform", "last-loss", "--steps", 4, "--eval-every", 2, "--out", tmp_path]
    run_script("compare", *options)
    table = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| method"))
    assert "| perplexity |" in table
    assert "error" not in table
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    uniform = next(row for row in rows if row["method"] == "uniform" and row["step"] == 4)
    assert f" {uniform['perplexity']:.1f} |" in (tmp_path / "comparison.md").read_text()
    assert "a test perplexity at or below the best that uniform reaches" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def diverged(scripts):
    """Return the evaluations of a run whose perplexity became infinite."""
    row = {"seconds": 1.0, "test_error": 1.0, "balanced_error": None, "class_errors": None, "train_loss": math.nan}
    row |= {"batch_loss": math.nan, "overhead_ms": 1.0, "overhead_percent": 1.0, "effective_sample_share": None}
    row |= {"captured": None, "learning_rate": 1.0, "effective_steps": 1.0, "gain_ratio": 1.0}
    return [
        scripts("evaluation").Evaluation(step=step, perplexity=value, **row)
        for step, value in [(1, 9.0), (2, math.inf)]
    ]


def test_a_run_that_diverged_is_drawn(scripts, ptb, diverged, tmp_path):
    task, config = scripts("text").penn_treebank(ptb), scripts("configuration").Config("ptb")
    scripts("plots").plot_runs({"uniform": {0: diverged}}, task, config, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_over_time_methods_are_drawn_that_were_timed(scripts, ptb, diverged, monkeypatch):
    plots, figures = scripts("plots"), []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, path: figures.append(figure))
    task, config = scripts("text").penn_treebank(ptb), scripts("configuration").Config("ptb")
    runs = {label: {0: diverged} for label in ("uniform", "untimed", "slow")}
    for costs in ({"uniform": 1.0, "slow": 2.5}, None):
        plots.plot_runs(runs, task, config, "curves.png", costs)
    timed, untimed = (figure.axes[1].lines for figure in figures)
    assert [list(line.get_xdata()) for line in timed] == [[1, 2], [2.5, 5]]
    assert [list(line.get_xdata()) for line in untimed] == 3 * [[1, 1]]
    over_steps = figures[0].axes[0].lines
    assert [line.get_color() for line in timed] == [over_steps[0].get_color(), over_steps[2].get_color()]


def test_a_smaller_task_has_fewer_words_after_less_of_the_text(scripts, ptb):
    task = scripts("text").penn_treebank(ptb)
    small = scripts("variants").thinned(task, every=16, context=10)
    assert torch.equal(small.train.targets, task.train.targets[::16])
    assert torch.equal(small.train.inputs, task.train.inputs[::16, -10:])
    assert torch.equal(small.test.inputs, task.test.inputs[:, -10:])
    assert torch.equal(small.test.targets, task.test.targets)
    assert (small.name, small.score, small.evaluated) == ("ptb-small", task.score, task.evaluated)
