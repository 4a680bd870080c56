"""Text for language models, each word a sample that is to be predicted from those before it; Penn Treebank is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data_files import candidate_folders, first_folder
from samples import LANGUAGE_MODEL, InMemoryDataset, Task
from scores import PERPLEXITY

__all__ = ["CONTEXT", "END", "UNKNOWN", "language_model_task", "next_words", "penn_treebank"]

END, UNKNOWN = "<eos>", "<unk>"
CONTEXT = 20
"""Words that a word is predicted from, as in the 2017 paper."""

EVALUATED_WORDS = 4_096
PTB_ADDRESS = "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"
PTB_FILES = {"train": "ptb.train.txt", "test": "ptb.test.txt"}


def penn_treebank(data_dir: Path | None) -> Task:
    """Return the language model's task on Penn Treebank, as Mikolov prepared it.

    Looks in `data_dir` and in the folder that the environment variable APPROX_IS_DATA names: in each itself, in `ptb`
    and in `simple-examples/data`, as it is published.

    Raises:
        FileNotFoundError: the files are not there.
    """
    folder = first_folder(
        candidate_folders(data_dir, "ptb", "simple-examples/data"),
        lambda path: all((path / name).is_file() for name in PTB_FILES.values()),
        missing=f"Penn Treebank is not on this machine. Unpack {PTB_ADDRESS} and pass the folder of "
        f"{' and '.join(PTB_FILES.values())} as --data-dir.",
    )
    lines = {part: folder.joinpath(name).read_text(encoding="utf-8").splitlines() for part, name in PTB_FILES.items()}
    words = {part: [word for line in lines[part] for word in (*line.split(), END)] for part in PTB_FILES}
    return language_model_task("ptb", "Penn Treebank", words["train"], words["test"])


def language_model_task(name: str, title: str, train: Sequence[str], test: Sequence[str]) -> Task:
    """Return the task of predicting each word from the 20 before it; its class is the word.

    The vocabulary is that of the training words, the most frequent first, and `<unk>`, which words of the test set are
    that training never saw. Where training never saw `<unk>` itself either, no network could learn to predict it: such
    words are in the contexts of test samples, but are none themselves.

    Args:
        name: as in `--dataset`.
        title: as in figures.
        train: the words to train on.
        test: the words to test on.

    Raises:
        ValueError: there are no words to train or to test on.
    """
    counts = Counter(train)
    vocabulary = [word for word, _ in counts.most_common()]
    if UNKNOWN not in counts:
        vocabulary.append(UNKNOWN)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    train_samples, test_samples = (next_words(numbers, words) for words in (train, test))
    if UNKNOWN not in counts:
        is_known = test_samples.targets != numbers[UNKNOWN]
        test_samples = InMemoryDataset(test_samples.inputs[is_known], test_samples.targets[is_known])
    if min(len(train_samples), len(test_samples)) == 0:
        raise ValueError(
            f"`--dataset {name}` has {len(train):,} words to train and {len(test):,} to test on. Get it anew."
        )
    return Task(
        name,
        title,
        train_samples,
        test_samples,
        tuple(vocabulary),
        kind=LANGUAGE_MODEL,
        score=PERPLEXITY,
        evaluated=EVALUATED_WORDS,
    )


def next_words(numbers: dict[str, int], words: Iterable[str]) -> InMemoryDataset:
    """Return a sample for each word: the 20 words before it, int64 [N, 20], and the word, int64 [N].

    The contexts are a view of the words, and take no memory of their own. Before the first word there are ends of
    sentences.

    Args:
        numbers: of the words in the vocabulary.
        words: the text.
    """
    before = [numbers[END]] * CONTEXT
    tokens = torch.tensor([*before, *(numbers.get(word, numbers[UNKNOWN]) for word in words)])
    return InMemoryDataset(_windows(tokens), tokens[CONTEXT:])


def _windows(tokens: Tensor) -> Tensor:
    return tokens[:-1].unfold(0, CONTEXT, 1) if len(tokens) > CONTEXT else tokens.new_zeros(0, CONTEXT)
