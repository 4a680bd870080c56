"""A language model: what comes next in sequences of tokens."""

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
