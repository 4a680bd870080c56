# make env && .venv/bin/python examples/transformers_trainer.py
"""Transformers: a causal language model over the verses of a book, each verse a sample; `create_sampler` chooses."""

import gzip
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from approx_is import ApproxSampler
from approx_is.integrations.transformers import ApproxTrainerMixin

LENGTH = 48


class ImportanceTrainer(ApproxTrainerMixin, Trainer):
    """A trainer that draws hard verses more often."""

    def create_sampler(self, loader):
        """Return the sampler."""
        return ApproxSampler(loader, predictor="lstm", k=0.5)


def samples(verses):
    """Return verses as letters in numbers, 0 for what is no letter, and padded; -100 are labels that do not count."""
    letters = [torch.tensor([max(0, ord(letter) - 96) for letter in verse.lower()[:LENGTH]]) for verse in verses]
    inputs = torch.nn.utils.rnn.pad_sequence(letters, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(letters, batch_first=True, padding_value=-100)
    return [{"input_ids": ids, "labels": wanted} for ids, wanted in zip(inputs, labels, strict=True)]


path = Path(__file__).parent.parent / "scripts" / "data" / "kjv.txt.gz"
genesis = gzip.decompress(path.read_bytes()).decode().splitlines()[:1_533]

torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=27, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2))

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        logging_steps=48,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = ImportanceTrainer(model, arguments, train_dataset=samples(genesis), eval_dataset=samples(genesis[:200]))
    trainer.train()
    print(f"loss of a letter {trainer.evaluate()['eval_loss']:.2f} nats")
    print(f"coverage {trainer.sampler.metrics()['coverage']:.0%}")
