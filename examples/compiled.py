# make env && .venv/bin/python examples/compiled.py
"""`torch.compile`: the network, the losses and their weighted mean in one graph; draws and updates stay outside."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from data import error, network, shuttle

train_set, test_set = shuttle()
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

loader = DataLoader(train_set, batch_size=128, shuffle=True, drop_last=True)
sampler = ApproxSampler(loader, predictor="last-loss", k=0.5, labels=train_set.tensors[1])


@torch.compile(fullgraph=True)
def forward(x, y, weights):
    """Return the loss, a scalar, and the loss of each sample."""
    losses = F.cross_entropy(model(x), y, reduction="none")
    return (weights * losses).mean(), losses.detach()


for epoch in range(2):
    for (x, y), draw in sampler:
        loss, losses = forward(x, y, draw.weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sampler.update(draw, losses)
    print(f"epoch {epoch + 1}: test error {error(model, test_set):.2%}")
