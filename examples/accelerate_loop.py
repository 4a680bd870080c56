# make env && .venv/bin/python examples/accelerate_loop.py
"""Accelerate: prepare model and optimizer, leave the loader to the sampler, and register that for checkpoints."""

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from data import error, network, shuttle

accelerator = Accelerator(cpu=True)
train_set, test_set = shuttle()
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
model, optimizer = accelerator.prepare(model, optimizer)

loader = DataLoader(train_set, batch_size=128, shuffle=True)  # not prepared
sampler = ApproxSampler(loader, predictor="last-loss", k=0.5, labels=train_set.tensors[1])
accelerator.register_for_checkpointing(sampler)

with tempfile.TemporaryDirectory() as folder:
    for epoch in range(2):
        for (x, y), draw in sampler:
            x, y = x.to(accelerator.device), y.to(accelerator.device)
            with accelerator.autocast():
                losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            accelerator.backward(draw.weighted_mean(losses))
            optimizer.step()
            sampler.update(draw, losses)
        accelerator.save_state(folder)  # with the sampler; load_state goes on from here
        accelerator.print(f"epoch {epoch + 1}: test error {error(model, test_set):.2%}")
