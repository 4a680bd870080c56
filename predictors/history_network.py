"""The network that reads a history."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from approx_is import host

__all__ = ["HistoryNetwork"]


class HistoryNetwork(nn.Module):
    """Stacked LSTMs over a sample's history, and an embedding of its class, projected to one number.

    Without parameters until `to_empty` and `initialise`: no random numbers are drawn from the global generators.
    """

    def __init__(
        self, num_features: int, num_classes: int, hidden_size: int, embedding_size: int, num_layers: int
    ) -> None:
        super().__init__()
        meta: dict[str, Any] = {"device": "meta", "dtype": torch.float32}
        self.lstm = nn.LSTM(num_features, hidden_size, num_layers=num_layers, batch_first=True, **meta)
        self.embedding = nn.Embedding(num_classes, embedding_size, **meta)
        self.linear = nn.Linear(hidden_size + embedding_size, 1, **meta)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the parameters as torch does by default, from a private generator on the CPU."""
        for module, fan_in in ((self.lstm, self.lstm.hidden_size), (self.linear, self.linear.in_features)):
            bound = fan_in**-0.5
            for parameter in module.parameters():
                start = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                parameter.copy_(start.uniform_(-bound, bound, generator=generator))
        start = torch.empty(self.embedding.weight.shape, dtype=torch.float32, device="cpu")
        self.embedding.weight.copy_(start.normal_(generator=generator))

    def forward(self, features: Tensor, counts: Tensor, labels: Tensor) -> Tensor:
        """Map left-aligned features [B, T, F], their counts [B] in [0, T] and classes [B] to outputs [B]."""
        hidden, (last_of_all, _) = self.lstm(features)
        if len(counts) and host.is_on_host(counts) and int(counts.min()) == features.shape[1]:
            last = last_of_all[-1]  # the same for full windows, without a gather and its gradient
        else:
            # what stands beyond the count comes later in time than the state that is read: padding has no effect
            rows = torch.arange(len(counts), device=counts.device)
            last = hidden[rows, (counts - 1).clamp(min=0)] * (counts > 0).unsqueeze(1)
        # the linear layer upon both side by side; classes are projected before there is one for each sample
        on_hidden, on_class = torch.split(self.linear.weight[0], [self.lstm.hidden_size, self.embedding.embedding_dim])
        by_class = (self.embedding.weight @ on_class).index_select(0, labels)
        output: Tensor = torch.addmv(self.linear.bias, last, on_hidden) + by_class
        return output
