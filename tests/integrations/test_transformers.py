"""Transformers, the real one: what its trainer trains on, what it saves, and what it says to misuse."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from frameworks import BATCH, SIZE, dataset
from laws import assert_same
from torch.utils.data import Dataset

from approx_is import ApproxSampler, upper_bound

pytestmark = [pytest.mark.xdist_group("transformers"), pytest.mark.filterwarnings("ignore:.*pin_memory")]

EPOCH = -(-SIZE // BATCH)


class Rows(Dataset):
    """Samples as a dict each; a column that no model takes, and on demand some that do."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def tokens(labels="class"):
    """Return samples of eight tokens; labels are a class, or the tokens themselves, some of them left out."""
    generator = torch.Generator().manual_seed(0)
    targets = dataset().tensors[1]
    inputs = (torch.randint(5, (SIZE, 8), generator=generator) + 2 * targets.unsqueeze(1)).tolist()
    rows = [{"input_ids": ids, "attention_mask": [1] * 8, "serial": number} for number, ids in enumerate(inputs)]
    for row, target in zip(rows, targets.tolist(), strict=True):
        row["labels"] = target if labels == "class" else [*row["input_ids"][: 4 + target], *[-100] * (4 - target)]
    return Rows(rows)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    return transformers


@pytest.fixture(scope="module")
def integration(transformers):
    from approx_is.integrations import transformers

    return transformers


@pytest.fixture
def make_model(transformers):
    def make(kind="classification", **options):
        torch.manual_seed(0)
        small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 16}
        common = {"vocab_size": 12, "max_position_embeddings": 8, "pad_token_id": 11, **small, **options}
        if kind == "causal":
            config = transformers.LlamaConfig(**common, bos_token_id=None, eos_token_id=None)
            return transformers.LlamaForCausalLM(config)
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
        return transformers.BertForSequenceClassification(transformers.BertConfig(**{**dropout, **common}))

    return make


@pytest.fixture
def make_trainer(transformers, integration, make_model, tmp_path):
    def make(kind="classification", hooks=None, trainer=None, model=None, train_set=None, **options):
        class Importance(integration.ApproxTrainerMixin, transformers.Trainer):
            def create_sampler(self, loader):
                return sampler(loader)

            def sample_losses(self, model, outputs, labels):
                losses = super().sample_losses(model, outputs, labels)
                self.seen = [*getattr(self, "seen", []), losses.tolist()]
                return losses

        for name, hook in (hooks or {}).items():
            setattr(Importance, name, hook)
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        quiet |= {"use_cpu": True, "dataloader_pin_memory": False, "num_train_epochs": 3, "learning_rate": 1e-2}
        arguments = transformers.TrainingArguments(
            **{"output_dir": str(tmp_path), "per_device_train_batch_size": BATCH, **quiet, **options}
        )
        model = model or make_model(kind)
        train_set = train_set or tokens("class" if kind == "classification" else "tokens")
        return Importance(model, arguments, train_dataset=train_set, **(trainer or {}))

    return make


def sampler(loader, **options):
    return ApproxSampler(loader, **{"predictor": "lstm", "k": 0.5, "seed": 3, "update_every": 2, **options})


class TestTraining:
    @pytest.mark.parametrize(
        ("kind", "accumulate"),
        [("classification", 1), ("causal", 1), ("causal", 2)],  # it does not divide all classifiers' losses
    )
    def test_with_uniform_draws_descends_what_the_trainer_would(self, transformers, make_trainer, kind, accumulate):
        """Of the same batches: where all weights are 1 and sequences have as many labels, its own loss is the same."""
        hooks = {"create_sampler": lambda self, loader: sampler(loader, predictor="uniform", k=1.0)}
        train_set = tokens("class")
        for row in train_set.rows:
            row["labels"] = row["labels"] if kind == "classification" else row["input_ids"]
        options = {"train_set": train_set, "gradient_accumulation_steps": accumulate}
        importance = make_trainer(kind, hooks, num_train_epochs=1, dataloader_drop_last=True, **options)
        order = []
        compute_loss = importance.compute_loss

        def spy(model, inputs, *args, **kwargs):
            order.extend(inputs["approx_is_draw"].indices.tolist())
            return compute_loss(model, inputs, *args, **kwargs)

        importance.compute_loss = spy
        trained = importance.train()
        in_order = Rows([train_set[index] for index in order])
        plain = transformers.Trainer(make_trainer(kind).model, importance.args, train_dataset=in_order)
        plain._get_train_sampler = lambda *args: torch.utils.data.SequentialSampler(order)
        by_itself = plain.train()
        assert trained.training_loss == pytest.approx(by_itself.training_loss, rel=1e-5)
        for one, other in zip(importance.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def test_learns_from_every_batch_and_every_sample(self, make_trainer):
        trainer = make_trainer()
        trainer.train()
        assert trainer.sampler.metrics()["step"] == 3 * EPOCH
        assert trainer.sampler.metrics()["coverage"] == 1

    def test_columns_that_the_model_does_not_take_are_removed_as_ever(self, make_trainer):
        trainer = make_trainer(num_train_epochs=1, remove_unused_columns=True)
        trainer.train()
        assert trainer.sampler.metrics()["step"] == EPOCH

    def test_in_mixed_precision_losses_are_single(self, make_trainer):
        seen = []

        def importance(self, outputs, labels, losses):
            seen.append((outputs.logits.dtype, losses.dtype))
            return losses.detach()

        trainer = make_trainer(hooks={"importance": importance}, bf16=True, num_train_epochs=1)
        trainer.train()
        assert {losses for _, losses in seen} == {torch.float32}
        assert trainer.sampler.metrics()["step"] == EPOCH

    def test_logs_the_metrics_with_the_loss(self, make_trainer):
        trainer = make_trainer(logging_strategy="steps", logging_steps=EPOCH)
        trainer.train()
        rows = [row for row in trainer.state.log_history if "loss" in row]
        assert [row["approx_is_step"] for row in rows] == [EPOCH, 2 * EPOCH, 3 * EPOCH]
        assert rows[-1]["approx_is_coverage"] == 1

    def test_evaluates_as_it_would(self, transformers, make_trainer):
        trainer = make_trainer()
        trainer.train()
        plain = transformers.Trainer(trainer.model, trainer.args, eval_dataset=tokens())
        assert trainer.evaluate(tokens())["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)

    def test_counts_samples_not_batches(self, make_trainer):
        trainer = make_trainer()
        assert trainer.num_examples(trainer.get_train_dataloader()) == SIZE

    def test_observes_what_importance_says(self, make_trainer):
        seen = []

        def importance(self, outputs, labels, losses):
            seen.append(upper_bound(outputs.logits, labels))
            return seen[-1]

        trainer = make_trainer(hooks={"importance": importance}, num_train_epochs=1)
        trainer.train()
        last = trainer.sampler._sampler._learner.history.last(torch.arange(SIZE))
        torch.testing.assert_close(last.sort().values, torch.cat(seen).sort().values)

    def test_label_smoothing_is_that_of_the_arguments(self, make_trainer):
        trainer = make_trainer(label_smoothing_factor=0.2)
        logits, labels = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
        losses = trainer.sample_losses(trainer.model, {"logits": logits}, labels)
        torch.testing.assert_close(losses, F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none"))

    @pytest.mark.parametrize(
        ("name", "labels", "expected"),
        [
            ("GPT2LMHeadModel", [[0, 1, 2]], True),
            ("LlamaForCausalLM", [[0, 1, 2]], True),
            ("BertForMaskedLM", [[0, 1, 2]], False),
            ("BertForTokenClassification", [[0, 1, 2]], False),
        ],
    )
    def test_labels_of_causal_models_are_those_of_the_next_token(
        self, transformers, make_trainer, name, labels, expected
    ):
        trainer, logits = make_trainer(), torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
        model = type(name, (SimpleNamespace,), {})(config=SimpleNamespace(is_encoder_decoder=False))
        model.loss_type = getattr(transformers, name).__name__[4:] if name.startswith("Bert") else None
        losses = trainer.sample_losses(model, {"logits": logits}, torch.tensor(labels))
        whole = F.cross_entropy(logits[0], torch.tensor([0, 1, 2]))
        shifted = F.cross_entropy(logits[0, :2], torch.tensor([1, 2]))
        torch.testing.assert_close(losses, (shifted if expected else whole).unsqueeze(0))


class TestResume:
    @pytest.mark.parametrize(
        ("workers", "step", "options"),
        [
            (0, EPOCH + 2, {}),
            (2, EPOCH + 2, {}),
            (0, EPOCH // 2 + 1, {"gradient_accumulation_steps": 2}),
            (0, 2 * EPOCH, {}),
            (2, 2 * EPOCH, {}),
            (0, EPOCH + 2, {"ignore_data_skip": True}),
        ],
        ids=["mid-epoch", "mid-epoch, 2 workers", "accumulated", "last batch", "last batch, 2 workers", "no skipping"],
    )
    def test_goes_on_bit_by_bit(self, make_trainer, tmp_path, workers, step, options):
        common = {"dataloader_num_workers": workers, **options}
        whole = make_trainer(save_strategy="steps", save_steps=1, **common)
        whole.train()
        state = copy.deepcopy(whole.sampler.state_dict())
        resumed = make_trainer(**common)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        if options.get("ignore_data_skip"):  # the trainer begins the epoch anew
            assert resumed.sampler.metrics()["step"] > step
            assert resumed.state.global_step == whole.state.global_step
            return
        batches = step * options.get("gradient_accumulation_steps", 1)
        assert resumed.seen == whole.seen[batches:]
        assert_same(resumed.model.state_dict(), whole.model.state_dict())
        assert_same(resumed.sampler.state_dict(), state)

    def test_from_the_latest_checkpoint(self, make_trainer, tmp_path):
        whole = make_trainer(save_strategy="steps", save_steps=4)
        whole.train()
        shutil.rmtree(tmp_path / f"checkpoint-{3 * EPOCH}")
        resumed = make_trainer()
        resumed.train(resume_from_checkpoint=True)
        assert len(resumed.seen) == 3 * EPOCH % 4
        assert_same(resumed.model.state_dict(), whole.model.state_dict())

    def test_of_a_training_without_a_sampler_warns_and_begins_to_learn(self, make_trainer, tmp_path, caplog):
        make_trainer(save_strategy="steps", save_steps=EPOCH).train()
        (tmp_path / f"checkpoint-{EPOCH}" / "approx_is.pt").unlink()
        resumed = make_trainer()
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{EPOCH}"))
        assert "approx_is.pt is not there" in caplog.text
        assert resumed.sampler.metrics()["step"] == 2 * EPOCH


class TestMisuse:
    def test_a_mean_in_place_of_the_losses(self, make_trainer):
        trainer = make_trainer(hooks={"sample_losses": lambda self, model, outputs, labels: outputs.logits.mean()})
        with pytest.raises(ValueError, match=r'must have shape \[8\].*got shape \[\].*reduction="none"'):
            trainer.train()
        assert trainer.sampler.metrics()["step"] == 0

    def test_a_loss_function_of_batches(self, make_trainer):
        with pytest.raises(ValueError, match=r"`compute_loss_func` must be None.*Override `sample_losses"):
            make_trainer(trainer={"compute_loss_func": lambda *args, **kwargs: None})

    def test_a_loader_prepared_again(self, make_trainer):
        def prepared(self):
            return self.accelerator.prepare(super(type(self), self).get_train_dataloader())

        with pytest.raises(ValueError, match=r"prepared again.*do not call accelerator\.prepare"):
            make_trainer(hooks={"get_train_dataloader": prepared}).train()

    def test_a_prepared_loader_wrapped(self, make_trainer):
        def wrap(self, loader):
            return sampler(self.accelerator.prepare(loader))

        with pytest.raises(
            ValueError, match=r"must be the loader as it was built; got a DataLoaderShard.*optimizer only"
        ):
            make_trainer(hooks={"create_sampler": wrap}).train()

    def test_no_labels(self, make_trainer):
        rows = Rows([{name: row[name] for name in row if name != "labels"} for row in tokens().rows])
        with pytest.raises(ValueError, match=r"must have labels, named labels.*Let the collator return them"):
            make_trainer(train_set=rows).train()

    def test_a_model_whose_loss_is_unknown(self, make_trainer):
        trainer = make_trainer()
        trainer.model.loss_type = "ForObjectDetection"
        with pytest.raises(TypeError, match=r"BertForSequenceClassification.*Override `sample_losses"):
            trainer.train()

    def test_a_collator_that_returns_no_dict(self, make_trainer):
        collate = {"data_collator": lambda rows: [torch.tensor(row["input_ids"]) for row in rows]}
        with pytest.raises(TypeError, match=r"`data_collator` must return a dict.*default_data_collator"):
            make_trainer(trainer=collate, remove_unused_columns=False).train()

    def test_no_trainer_to_mix_into(self, integration):
        with pytest.raises(
            TypeError, match=r"`Alone` must be a Trainer.*class YourTrainer\(ApproxTrainerMixin, Trainer\)"
        ):
            type("Alone", (integration.ApproxTrainerMixin,), {})()

    def test_a_hook_that_returns_no_sampler(self, make_trainer):
        with pytest.raises(TypeError, match=r"`create_sampler\(loader\)` must return an ApproxSampler; got DataLoader"):
            make_trainer(hooks={"create_sampler": lambda self, loader: loader}).train()

    def test_a_stream_of_samples(self, make_trainer):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(tokens().rows)

        with pytest.raises(ValueError, match="draws samples by index; an IterableDataset has none"):
            make_trainer(train_set=Stream(), max_steps=2).train()
