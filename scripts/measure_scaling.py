"""Measure what ranks cost: memory of each, bytes sent a step, and time, with replicated samplers and with shards.

Ranks are processes of this machine, joined by gloo. Memory is by how much that of a process grows while its sampler is
built and all of it is written; no labels. Bytes are those that a rank hands to `torch.distributed` a step. For sizes
that do not fit, memory is computed from what a sample takes at the largest size measured.

Example:
    python scripts/measure_scaling.py --sizes 100000 1000000 10000000 100000000 --out runs/bench
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from tqdm import tqdm

from approx_is import ImportanceSampler
from machine import describe
from measure_memory import tensors_in
from options import positive
from resident_memory import Resident
from runs import write_atomically

BATCH_SIZE = 128
STEPS = 160
COMPUTED = 10**10
WORLDS = (("alone", 1), ("replicated", 2), ("sharded", 2), ("sharded", 4))
GIB = 2**30


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cases = [(mode, ranks, size) for size in arguments.sizes for mode, ranks in WORLDS]
    rows = [measure(*case, arguments.history_dtype) for case in tqdm(cases, unit="case", leave=False)]
    print(table(rows))
    report = {"machine": describe(), "batch_size": BATCH_SIZE, "history_dtype": arguments.history_dtype, "rows": rows}
    write_atomically(arguments.out / "scaling.json", json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    sizes = [10**5, 10**6, 10**7]
    option("--sizes", nargs="+", type=positive, default=sizes, metavar="N", help="(default: 1e5, 1e6 and 1e7)")
    option("--history-dtype", choices=("float16", "float32"), default="float16", help="(default: %(default)s)")
    option("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(default: %(default)s)")
    return parser.parse_args()


def measure(mode: str, ranks: int, num_samples: int, history_dtype: str) -> dict[str, Any]:
    """Return what one way of keeping so many samples costs, the most of any rank."""
    with TemporaryDirectory() as folder, ProcessPoolExecutor(ranks, get_context("spawn")) as pool:
        calls = [(rank, ranks, mode, num_samples, history_dtype, folder) for rank in range(ranks)]
        results = list(pool.map(measure_rank, *zip(*calls, strict=True)))
    most = {name: max(result[name] for result in results) for name in results[0]}
    return {"mode": mode, "ranks": ranks, "num_samples": num_samples, **most}


def measure_rank(
    rank: int, ranks: int, mode: str, num_samples: int, history_dtype: str, folder: str
) -> dict[str, float]:
    """Return what this process's sampler costs."""
    torch.set_num_threads(1)
    if ranks > 1:
        store = dist.FileStore(f"{folder}/store", ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    use(build(mode, 10_000, history_dtype))  # loads what is loaded but once
    before = Resident.now().total
    sampler = build(mode, num_samples, history_dtype)
    for tensor in tensors_in(sampler.state_dict()):
        tensor.add_(0)
    result = {"memory": Resident.now().total - before} | use(sampler)
    if ranks > 1:
        dist.destroy_process_group()
    return result


def build(mode: str, num_samples: int, history_dtype: str) -> ImportanceSampler:
    """Return a sampler that draws by importance from its second epoch on."""
    return ImportanceSampler(
        num_samples,
        BATCH_SIZE,
        predictor="last-loss",
        gate=None,
        shard=mode == "sharded",
        history_dtype=getattr(torch, history_dtype),
    )


def use(sampler: ImportanceSampler) -> dict[str, float]:
    """Draw and update by importance; return the median ms of a step, and the bytes that it sends."""
    sampler.draw(sampler.num_samples)  # what is left of the first epoch
    observed = torch.rand(BATCH_SIZE, generator=torch.Generator().manual_seed(0))
    sent, times = 0, []

    def counting(output: list[torch.Tensor], values: torch.Tensor, **options: Any) -> Any:
        nonlocal sent
        sent += values.nbytes
        return gather(output, values, **options)

    gather = dist.all_gather
    with patch.object(dist, "all_gather", counting):
        for _ in range(STEPS // sampler.update_every):
            started = perf_counter()
            for _ in range(sampler.update_every):
                draw = sampler.draw()
                sampler.update(draw, observed)
            times.append((perf_counter() - started) / sampler.update_every)
    steps = STEPS // sampler.update_every * sampler.update_every
    return {"step_ms": 1e3 * median(times), "sent": sent / steps}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures in Markdown, with those computed for more samples than fit."""
    lines = ["| samples | ranks | memory of a rank | bytes a sample of the data set, in it | sent a step | ms a step |"]
    lines.append("|---:|---|---:|---:|---:|---:|")
    for row in rows:
        each = row["memory"] / row["num_samples"]
        cells = [f"{row['num_samples']:,}", name_of(row), size_text(row["memory"]), f"{each:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {row['sent']:,.0f} B | {row['step_ms']:.2f} |")
    largest = max(row["num_samples"] for row in rows)
    for row in (row for row in rows if row["num_samples"] == largest):
        each = row["memory"] / row["num_samples"]
        cells = [f"{COMPUTED:,} (computed)", name_of(row), size_text(each * COMPUTED), f"{each:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {row['sent']:,.0f} B | |")
    return "\n".join(lines)


def name_of(row: dict[str, Any]) -> str:
    """Return how the samples are kept, in words."""
    return row["mode"] if row["ranks"] == 1 else f"{row['ranks']} {row['mode']}"


def size_text(size: float) -> str:
    """Return bytes as a text."""
    if size < 0.1 * GIB:
        return f"{math.ceil(size / 2**20)} MiB"
    return f"{size / GIB:,.2f} GiB"


if __name__ == "__main__":
    main()
