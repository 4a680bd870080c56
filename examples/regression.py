# make env && .venv/bin/python examples/regression.py
"""Regression: squared errors, no classes, and at k = 1 the norm of the loss's gradient at the output observed."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from approx_is import ApproxSampler, upper_bound

features, progression = (torch.from_numpy(array).float() for array in load_diabetes(return_X_y=True))
features, progression = features / features.std(0), (progression - progression.mean()) / progression.std()
train_set = TensorDataset(features[:354], progression[:354])

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

sampler = ApproxSampler(DataLoader(train_set, batch_size=32, shuffle=True), predictor="last-loss", gate=None)

for _ in range(40):
    for (x, y), draw in sampler:
        predicted = model(x)
        losses = (predicted - y).square()
        optimizer.zero_grad()
        draw.weighted_mean(losses).backward()
        optimizer.step()
        sampler.update(draw, upper_bound(predicted, y, loss="squared"))

with torch.no_grad():
    error = (model(features[354:]) - progression[354:]).square().mean().item()
print(f"test error {error:.3f} of the variance; a draw is worth {sampler.metrics()['variance_ratio']:.2f} uniform ones")
