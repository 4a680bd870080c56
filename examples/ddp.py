# make env && .venv/bin/torchrun --standalone --nproc-per-node 2 examples/ddp.py
"""Several processes: each wraps a loader of its own, without a DistributedSampler, and all draw together."""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from data import error, network, shuttle

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")

train_set, test_set = shuttle()
model = network().to(device)
in_step = DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

loader = DataLoader(train_set, batch_size=64, shuffle=True)  # 64 of each of the processes
sampler = ApproxSampler(loader, predictor="last-loss", k=0.5, labels=train_set.tensors[1])

for epoch in range(2):
    for (x, y), draw in sampler:
        losses = F.cross_entropy(in_step(x.to(device)), y.to(device), reduction="none")
        optimizer.zero_grad()
        draw.weighted_mean(losses).backward()
        optimizer.step()
        sampler.update(draw, losses)
    if dist.get_rank() == 0:
        print(f"epoch {epoch + 1}: test error {error(model, test_set):.2%}")

dist.destroy_process_group()
