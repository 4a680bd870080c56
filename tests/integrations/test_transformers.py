"""Transformers, the real one: what its trainer trains on, what it saves, and what it says to misuse."""

import copy
import shutil

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

    def test_in_mixed_precision(self, make_trainer):
        whole, mixed = make_trainer(num_train_epochs=1), make_trainer(bf16=True, num_train_epochs=1)
        whole.train()
        mixed.train()
        assert mixed.sampler.metrics()["step"] == EPOCH
        assert mixed.seen != whole.seen
        torch.testing.assert_close(torch.tensor(mixed.seen[0]), torch.tensor(whole.seen[0]), rtol=0.1, atol=0.05)

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
        trainer._is_shifted = False
        logits, labels = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
        losses = trainer.sample_losses(trainer.model, {"logits": logits}, labels)
        torch.testing.assert_close(losses, F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none"))

    @pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
    def test_a_compiled_model_is_known_for_what_it_is(self, transformers, make_trainer, compiled):
        config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        batch = {"input_ids": torch.tensor([row["input_ids"] for row in tokens().rows])}
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        train_set = Rows([{"input_ids": ids, "labels": ids} for ids in batch["input_ids"].tolist()])
        trainer = make_trainer(model=model, train_set=train_set, learning_rate=0.0, num_train_epochs=1, **options)
        model.eval()
        own = model(**batch, labels=batch["input_ids"]).loss.item()
        trainer.train()
        assert sum(sum(losses) for losses in trainer.seen) / SIZE == pytest.approx(own, rel=1e-5)

    def test_the_first_batch_leaves_modes_and_generators_alone(self, make_trainer, make_model):
        model = make_model()
        model.bert.embeddings.eval()
        modes = [module.training for module in model.modules()]
        trainer = make_trainer(model=model)
        batch = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "labels": torch.tensor([0, 1])}
        state = torch.get_rng_state()
        assert own_loss().find_shift(model, batch, torch.zeros(2, 3), batch["labels"], is_regression=False) is False
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in model.modules()] == modes
        assert trainer.model is model


SMALL = {"vocab_size": 12, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {"vocab_size": 12, "d_model": 8, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}

MODELS = {
    "LlamaForCausalLM": ("LlamaConfig", SMALL),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 12, "n_embd": 8, "n_layer": 1, "n_head": 2}),
    "OpenAIGPTLMHeadModel": ("OpenAIGPTConfig", {"vocab_size": 12, "n_embd": 8, "n_layer": 1, "n_head": 2}),
    "BertLMHeadModel": ("BertConfig", {**SMALL, "is_decoder": True}),
    "BertForMaskedLM": ("BertConfig", SMALL),
    "BertForTokenClassification": ("BertConfig", {**SMALL, "num_labels": 12}),
    "BartForCausalLM": ("BartConfig", {**DECODER, "is_decoder": True, "is_encoder_decoder": False}),
    "XLNetLMHeadModel": ("XLNetConfig", {"vocab_size": 12, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16}),
    "T5ForConditionalGeneration": (
        "T5Config",
        {
            "vocab_size": 12,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 16,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
}
"""Models with a label at each position: of that one, or of the next."""


def own_loss():
    from approx_is.integrations import own_loss

    return own_loss


def build(transformers, name):
    config, options = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**options)).eval()


@pytest.mark.filterwarnings("default")
class TestOwnLoss:
    @pytest.mark.parametrize("name", MODELS)
    def test_losses_of_samples_are_those_that_the_model_takes_the_mean_of(self, transformers, name):
        model = build(transformers, name)
        labels = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(0))
        labels[0, 4:] = -100
        inputs = {"input_ids": labels.clamp(min=0), "labels": labels}
        with torch.no_grad():
            outputs = model(**inputs)
        shift = own_loss().find_shift(model, inputs, outputs["logits"], labels, is_regression=False)
        mean = own_loss()._own_mean(outputs["logits"], labels, is_regression=False, is_shifted=shift)
        torch.testing.assert_close(mean, outputs["loss"], rtol=1e-4, atol=0)

    @pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
    def test_classifiers(self, make_model, problem):
        labels = {"regression": torch.rand(4, 3), "multi_label_classification": torch.eye(4, 3)}
        labels = labels.get(problem, torch.tensor([0, 1, 2, 1]))
        model = make_model(problem_type=problem).eval()
        inputs = {"input_ids": torch.ones(4, 5, dtype=torch.int64), "labels": labels}
        logits = model(**inputs).logits
        options = {"is_regression": own_loss().is_regression(model, logits, labels)}
        assert own_loss().find_shift(model, inputs, logits, labels, **options) is False

    def test_a_loss_with_something_else_in_it_is_refused(self, transformers):
        config = transformers.MixtralConfig(
            **{**SMALL, "num_key_value_heads": 2, "num_local_experts": 2}, output_router_logits=True
        )
        config.router_aux_loss_coef = 1.0
        model = transformers.MixtralForCausalLM(config)
        inputs = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "labels": torch.ones(2, 5, dtype=torch.int64)}
        logits = torch.zeros(2, 5, 12)
        with pytest.raises(TypeError, match=r"`MixtralForCausalLM` has a loss of its own.*not the mean over"):
            own_loss().find_shift(model, inputs, logits, inputs["labels"], is_regression=False)

    def test_positions_without_a_loss_of_its_own_are_refused(self):
        class Silent(torch.nn.Module):
            def forward(self, labels):
                return {"logits": torch.zeros(2, 5, 12)}

        labels = torch.ones(2, 5, dtype=torch.int64)
        with pytest.raises(TypeError, match="`Silent` must return a loss of its own to compare with"):
            own_loss().find_shift(Silent(), {"labels": labels}, torch.zeros(2, 5, 12), labels, is_regression=False)

    def test_a_batch_without_labels_says_nothing(self, transformers):
        model = build(transformers, "LlamaForCausalLM")
        labels = torch.full((2, 5), -100)
        inputs = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "labels": labels}
        logits = torch.zeros(2, 5, 12)
        assert own_loss().find_shift(model, inputs, logits, labels, is_regression=False) is None


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
        resumed.train(resume_from_checkpoint=tmp_path / f"checkpoint-{step}")
        assert resumed.state.global_step == whole.state.global_step
        if options.get("ignore_data_skip"):  # the trainer begins the epoch anew
            assert resumed.sampler.metrics()["step"] == 3 * EPOCH
            return
        batches = step * options.get("gradient_accumulation_steps", 1)
        assert resumed.seen == whole.seen[batches:]
        assert_same(resumed.model.state_dict(), whole.model.state_dict())
        assert_same(resumed.sampler.state_dict(), state)

    @pytest.mark.parametrize(
        "changed",
        [{"gradient_accumulation_steps": 2}, {"per_device_train_batch_size": 2 * BATCH}],
        ids=["accumulation", "batch size"],
    )
    def test_with_another_accumulation_or_batch_size(self, make_trainer, tmp_path, caplog, changed):
        make_trainer(save_strategy="steps", save_steps=4, max_steps=4).train()
        resumed = make_trainer(**changed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert "was it another batch size or accumulation?" in caplog.text
        assert resumed.sampler.metrics()["step"] == 4 + len(resumed.seen)
        assert resumed.state.global_step == resumed.state.max_steps

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
        with pytest.raises(ValueError, match=r"must have labels, named one of .*Let the collator return them"):
            make_trainer(train_set=rows).train()

    def test_a_model_without_logits(self, make_trainer, make_model):
        model = make_model()

        class Boxes(type(model)):
            def forward(self, input_ids, attention_mask, labels=None):
                return {"boxes": super().forward(input_ids, attention_mask).logits}

        model.__class__ = Boxes
        with pytest.raises(TypeError, match=r"`Boxes` must return logits.*Override `sample_losses"):
            make_trainer(model=model).train()

    def test_another_loader_made_meanwhile_changes_nothing(self, transformers, make_trainer):
        trainer = make_trainer(num_train_epochs=2)

        class Meddler(transformers.TrainerCallback):
            def on_epoch_begin(self, *args, **kwargs):
                trainer.get_train_dataloader()

        trainer.add_callback(Meddler())
        trainer.train()
        assert trainer.sampler.metrics()["step"] == 2 * EPOCH

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
