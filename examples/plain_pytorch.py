# make env && .venv/bin/python examples/plain_pytorch.py
"""A training loop of plain PyTorch: five lines differ."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from data import error, network, shuttle

train_set, test_set = shuttle()
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

loader = DataLoader(train_set, batch_size=128, shuffle=True)
sampler = ApproxSampler(loader, predictor="lstm", k=0.5, labels=train_set.tensors[1])

for epoch in range(2):
    for (x, y), draw in sampler:
        losses = F.cross_entropy(model(x), y, reduction="none")
        optimizer.zero_grad()
        draw.weighted_mean(losses).backward()
        optimizer.step()
        sampler.update(draw, losses)
    print(f"epoch {epoch + 1}: test error {error(model, test_set):.2%}, coverage {sampler.metrics()['coverage']:.0%}")
