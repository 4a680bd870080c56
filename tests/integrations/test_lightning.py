"""Lightning, the real one: what it trains on, what it saves, and what it says to misuse."""

import copy
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from frameworks import BATCH, SIZE, loader, network
from laws import assert_same
from torch.utils.data import DataLoader

from approx_is import ApproxSampler

pytestmark = [
    pytest.mark.xdist_group("lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning", "ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]

EPOCH = -(-SIZE // BATCH)


@pytest.fixture(scope="module")
def pl():
    return pytest.importorskip("lightning.pytorch", reason="the extra `lightning` is not installed")


@pytest.fixture(scope="module")
def integration(pl):
    from approx_is.integrations import lightning

    return lightning


@pytest.fixture
def make_module(pl):
    def make(step=None):
        class Classifier(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.network = network()
                self.seen = []

            def training_step(self, batch, batch_idx):
                (x, y), draw = batch
                self.seen.append(draw.indices.tolist())
                if step is not None:
                    return step(self, batch)
                losses = F.cross_entropy(self.network(x), y, reduction="none")
                self.log("loss", losses.mean(), on_epoch=True)
                return {"loss": draw.weighted_mean(losses), "per_sample_loss": losses.detach()}

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=1e-2)

        return Classifier()

    return make


@pytest.fixture
def make_trainer(pl, tmp_path):
    def make(*callbacks, **options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        saves = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks)
        options = {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": saves, **quiet, **options}
        return pl.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **options)

    return make


def sampler(workers=0, augmented=False, **options):
    return ApproxSampler(
        loader(workers, augmented), **{"predictor": "lstm", "k": 0.5, "seed": 3, "update_every": 2, **options}
    )


class TestTraining:
    def test_learns_from_every_batch(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        module = make_module()
        make_trainer(approx).fit(module, approx.batches)
        assert approx.sampler.metrics()["step"] == 3 * EPOCH
        assert sorted(chain(*module.seen[:EPOCH])) == list(range(SIZE))

    def test_is_the_loop_by_hand(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        module = make_module()
        make_trainer(approx).fit(module, approx.batches)
        by_hand, alone = network(), sampler()
        optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
        for _ in range(3):
            for (x, y), draw in alone:
                losses = F.cross_entropy(by_hand(x), y, reduction="none")
                optimizer.zero_grad()
                draw.weighted_mean(losses).backward()
                optimizer.step()
                alone.update(draw, losses)
        assert_same(module.network.state_dict(), by_hand.state_dict())

    def test_logs_the_metrics(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        trainer = make_trainer(approx)
        trainer.fit(make_module(), approx.batches)
        assert trainer.callback_metrics["approx_is/coverage"] == 1
        assert trainer.callback_metrics["approx_is/step"] == 3 * EPOCH

    @pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
    def test_a_skipped_step_is_not_learned_from(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        make_trainer(approx, max_epochs=1).fit(make_module(lambda module, batch: None), approx.batches)
        assert approx.sampler.metrics()["step"] == 0

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    def test_draws_keep_their_precision(self, integration, make_module, make_trainer, precision):
        def step(module, batch):
            (x, y), draw = batch
            assert draw.weights.dtype == torch.float32
            assert draw.probabilities.dtype == torch.float64
            losses = F.cross_entropy(module.network(x), y, reduction="none")
            return {"loss": draw.weighted_mean(losses), "per_sample_loss": losses}

        approx = integration.ApproxCallback(sampler())
        make_trainer(approx, max_epochs=2, precision=precision).fit(make_module(step), approx.batches)
        assert approx.sampler.metrics()["step"] == 2 * EPOCH

    def test_an_epoch_cut_short_is_over(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler(predictor="uniform", k=1.0))
        module = make_module()
        make_trainer(approx, limit_train_batches=4).fit(module, approx.batches)
        assert len(module.seen) == 12
        assert sorted(chain(*module.seen[:EPOCH])) == list(range(SIZE))  # all of them once, before any comes again
        assert len(set(chain(*module.seen[-4:]))) == 4 * BATCH  # none twice in an epoch, whatever the last one left

    def test_evaluation_within_an_epoch_changes_nothing(self, integration, make_module, make_trainer):
        plain, evaluated = (integration.ApproxCallback(sampler()) for _ in range(2))
        modules = [make_module(), make_module()]
        type(modules[1]).validation_step = lambda module, batch, batch_idx: None
        make_trainer(plain).fit(modules[0], plain.batches)
        options = {"val_check_interval": 2, "num_sanity_val_steps": 1}
        make_trainer(evaluated, **options).fit(modules[1], evaluated.batches, loader())
        assert modules[0].seen == modules[1].seen


class TestResume:
    @pytest.mark.parametrize(
        ("workers", "step", "options"),
        [
            (0, EPOCH + 2, {}),
            (2, EPOCH + 2, {}),
            (0, EPOCH + 2, {"accumulate_grad_batches": 2}),
            (0, 2 * EPOCH, {}),
            (2, 2 * EPOCH, {}),
            (0, 4 + 2, {"limit_train_batches": 4}),
            (0, 8, {"limit_train_batches": 4}),
        ],
        ids=[
            "mid-epoch",
            "mid-epoch, 2 workers",
            "mid-epoch, accumulated",
            "last batch",
            "last batch, 2 workers",
            "mid-epoch, limited",
            "last batch, limited",
        ],
    )
    def test_goes_on_bit_by_bit(self, pl, integration, make_module, make_trainer, tmp_path, workers, step, options):
        every_step = pl.callbacks.ModelCheckpoint(
            tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
        )
        runs = []
        accumulated = options.get("accumulate_grad_batches", 1)
        for checkpoint in (None, tmp_path / f"{step // accumulated}.ckpt"):
            approx = integration.ApproxCallback(sampler(workers))
            module = make_module()
            callbacks = [approx, every_step] if checkpoint is None else [approx]
            torch.manual_seed(7)
            make_trainer(*callbacks, **options).fit(module, approx.batches, ckpt_path=checkpoint)
            runs.append((module, copy.deepcopy(approx.sampler.state_dict())))
        (whole, state), (resumed, resumed_state) = runs
        assert resumed.seen == whole.seen[step:]
        assert_same(resumed.state_dict(), whole.state_dict())
        assert_same(resumed_state, state)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_from_the_end_of_an_epoch(self, pl, integration, make_module, make_trainer, tmp_path, workers):
        at_ends = pl.callbacks.ModelCheckpoint(
            tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True, auto_insert_metric_name=False
        )
        whole, resumed = make_module(), make_module()
        for module, callbacks, checkpoint in ((whole, [at_ends], None), (resumed, [], tmp_path / "1.ckpt")):
            approx = integration.ApproxCallback(sampler(workers, augmented=workers > 0))
            make_trainer(approx, *callbacks).fit(module, approx.batches, ckpt_path=checkpoint)
        assert resumed.seen == whole.seen[2 * EPOCH :]
        assert_same(resumed.state_dict(), whole.state_dict())

    @pytest.mark.filterwarnings("ignore:.*no .val_dataloader.")
    def test_validation_of_a_checkpoint_does_not_turn_the_sampler_back(
        self, integration, make_module, make_trainer, tmp_path
    ):
        approx = integration.ApproxCallback(sampler())
        module = make_module()
        type(module).validation_step = lambda module, batch, batch_idx: None
        trainer = make_trainer(approx, max_epochs=1)
        trainer.fit(module, approx.batches)
        trainer.save_checkpoint(tmp_path / "first.ckpt")
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, approx.batches)
        trainer.validate(module, loader(), ckpt_path=tmp_path / "first.ckpt")
        assert approx.sampler.metrics()["step"] == 2 * EPOCH


class TestMisuse:
    @pytest.mark.parametrize(
        ("step", "found"),
        [
            (lambda module, batch: F.cross_entropy(module.network(batch[0][0]), batch[0][1]), r"got \['loss'\]"),
            (lambda module, batch: {"loss": module.network(batch[0][0]).mean(), "losses": 1}, r"\['loss', 'losses'\]"),
        ],
        ids=["a scalar", "another name"],
    )
    def test_without_losses_of_samples(self, integration, make_module, make_trainer, step, found):
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(
            ValueError, match=rf"training_step` must return the loss of each sample.*{found}.*reduction"
        ):
            make_trainer(approx).fit(make_module(step), approx.batches)
        assert approx.sampler.metrics()["step"] == 0

    def test_a_mean_in_place_of_the_losses(self, integration, make_module, make_trainer):
        def step(module, batch):
            loss = F.cross_entropy(module.network(batch[0][0]), batch[0][1])
            return {"loss": loss, "per_sample_loss": loss}

        approx = integration.ApproxCallback(sampler())
        with pytest.raises(ValueError, match=r'must have shape \[8\].*got shape \[\].*reduction="none"'):
            make_trainer(approx).fit(make_module(step), approx.batches)

    def test_another_loader(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(
            ValueError, match=r"must train on the callback's `batches`; got DataLoader.*callback\.batches"
        ):
            make_trainer(approx).fit(make_module(), loader())

    def test_batches_without_their_callback(self, integration, make_module, make_trainer):
        for made in (sampler(), sampler):
            approx = integration.ApproxCallback(made)
            with pytest.raises(RuntimeError, match=r"ApproxCallback.*Trainer\(callbacks=\[callback\]\)"):
                make_trainer().fit(make_module(), approx.batches)

    def test_batches_that_lost_their_draw(self, integration, make_module, make_trainer):
        module = make_module()
        type(module).on_before_batch_transfer = lambda self, batch, dataloader_idx: batch[0]
        type(module).training_step = lambda self, batch, batch_idx: self.network(batch[0]).mean()
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(TypeError, match=r"must leave batches as pairs of batch and draw; got (list|tuple)"):
            make_trainer(approx).fit(module, approx.batches)

    def test_batches_of_a_callback_that_an_earlier_trainer_had(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(sampler())
        make_trainer(approx, max_epochs=1).fit(make_module(), approx.batches)
        with pytest.raises(RuntimeError, match=r"ApproxCallback.*Trainer\(callbacks=\[callback\]\)"):
            make_trainer(max_epochs=1).fit(make_module(), approx.batches)

    def test_manual_optimization_that_returns_nothing(self, integration, make_module, make_trainer):
        def step(module, batch):
            (x, y), draw = batch
            module.manual_backward(draw.weighted_mean(F.cross_entropy(module.network(x), y, reduction="none")))

        module = make_module(step)
        module.automatic_optimization = False
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(ValueError, match=r"training_step` must return the loss of each sample"):
            make_trainer(approx).fit(module, approx.batches)

    def test_a_sampler_of_a_shard(self, integration, make_module, make_trainer, monkeypatch):
        monkeypatch.setattr(ApproxSampler, "is_sharded", True)
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(ValueError, match=r"shard=.*must be False with Lightning.*first process only"):
            make_trainer(approx).fit(make_module(), approx.batches)

    @pytest.mark.parametrize("wrong", [loader(), "lstm"], ids=["loader", "name"])
    def test_no_sampler(self, integration, wrong):
        with pytest.raises(TypeError, match=r"`ApproxCallback\(sampler\)` must be an ApproxSampler or a function"):
            integration.ApproxCallback(wrong)

    def test_a_function_that_returns_none(self, integration, make_module, make_trainer):
        approx = integration.ApproxCallback(lambda: DataLoader([1]))
        with pytest.raises(
            TypeError, match=r"must be a function that returns an ApproxSampler; it returned DataLoader"
        ):
            make_trainer(approx).fit(make_module(), approx.batches)

    def test_a_sampler_made_before_processes_know_of_one_another(self, integration):
        approx = integration.ApproxCallback(sampler())
        with pytest.raises(ValueError, match=r"must be a function if 2 processes train.*Pass lambda"):
            approx.setup(SimpleNamespace(world_size=2), None, "fit")

    def test_a_state_of_another_sampler(self, pl, integration, make_module, make_trainer, tmp_path):
        first = integration.ApproxCallback(sampler())
        trainer = make_trainer(first, pl.callbacks.ModelCheckpoint(tmp_path), max_epochs=1)
        trainer.fit(make_module(), first.batches)
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        other = integration.ApproxCallback(sampler(predictor="last-loss"))
        with pytest.raises(ValueError, match="predictor_class 'LSTMPredictor'; this sampler has 'LastLossPredictor'"):
            make_trainer(other).fit(make_module(), other.batches, ckpt_path=tmp_path / "one.ckpt")
