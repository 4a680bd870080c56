# make env && .venv/bin/python examples/amp_and_accumulation.py
"""Mixed precision, gradient accumulation and clipping: `update` after each micro-batch, all else as ever."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from data import error, network, shuttle

ACCUMULATE = 2

device = "cuda" if torch.cuda.is_available() else "cpu"
train_set, test_set = shuttle()
model = network().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
scaler = torch.amp.GradScaler(device, enabled=device == "cuda")  # for float16; bfloat16 on the CPU needs none

loader = DataLoader(train_set, batch_size=128, shuffle=True, drop_last=True)
sampler = ApproxSampler(loader, predictor="last-loss", k=0.5, labels=train_set.tensors[1])

step = 0
for epoch in range(2):
    for (x, y), draw in sampler:
        x, y = x.to(device), y.to(device)
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            losses = F.cross_entropy(model(x), y, reduction="none")
        scaler.scale(draw.weighted_mean(losses) / ACCUMULATE).backward()
        sampler.update(draw, losses)  # the losses as they are, not scaled
        step += 1
        if step % ACCUMULATE == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    print(f"epoch {epoch + 1}: test error {error(model, test_set):.2%}")
