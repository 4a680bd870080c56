"""Language models: what comes next in sequences of tokens, at each position or at the end."""

from __future__ import annotations

from torch import Tensor, nn


class LanguageModel(nn.Module):
    """Embeds tokens, reads them by an LSTM, and says for each position what the next one may be.

    Args:
        vocabulary: number of tokens V.
        embedding_size: of a token.
        hidden_size: of the LSTM.
    """

    def __init__(self, vocabulary: int, embedding_size: int = 128, hidden_size: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, int64 [B, T], to logits [B, T, V]."""
        hidden, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.linear(hidden)
        return logits


class NextWordLSTM(nn.Module):
    """Embeds the words of a context, reads them by an LSTM, and says what the next one may be.

    Dropout is on what goes into the LSTM and on what comes out of it, not on what it remembers.

    Reference:
        Katharopoulos & Fleuret (2017), §4.3; Zaremba, Sutskever & Vinyals (2014), fig. 2, for where dropout is.

    Args:
        vocabulary: number of words V.
        embedding_size: of a word.
        hidden_size: of the LSTM.
        dropout: share of features that are left out in training.
    """

    def __init__(
        self, vocabulary: int, *, embedding_size: int = 64, hidden_size: int = 256, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> Tensor:
        """Map contexts, int64 [B, T], to logits of the word after them, [B, V]."""
        _, (hidden, _) = self.lstm(self.dropout(self.embedding(words)))
        logits: Tensor = self.linear(self.dropout(hidden[-1]))
        return logits
