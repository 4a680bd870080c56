"""Seeded training runs: the gain ratio that is estimated from a sampler's batches, beside the true one."""

import pytest
import torch
import torch.nn.functional as F
from laws import make_sampler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from approx_is import GainLR, half_batch_signal, upper_bound

NUM_SAMPLES = 400
BATCH_SIZE = 32
STEPS = 900
MEASURED = range(600, STEPS, 10)  # steps over which estimate and truth are averaged


def mixed_data(share_of_hard):
    """Return inputs of similar norms and labels that most of them give away, a share of them none."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (NUM_SAMPLES,), generator=generator)
    inputs = 0.3 * torch.randn(NUM_SAMPLES, 8, generator=generator)
    inputs[:, :3] += 3 * F.one_hot(targets, 3)
    num_hard = round(share_of_hard * NUM_SAMPLES)
    targets[:num_hard] = torch.randint(3, (num_hard,), generator=generator)
    return F.normalize(inputs) * 3, targets


def true_ratio(model, inputs, targets, probabilities):
    """Return the ratio of the exact second moments of the full gradient of a minibatch, uniform over weighted."""
    with torch.no_grad():
        errors = (model(inputs).softmax(1) - F.one_hot(targets, 3)).double()
    gradients = (errors.unsqueeze(2) * inputs.double().unsqueeze(1)).flatten(1)
    squares = gradients.square().sum(1)
    signal = gradients.mean(0).square().sum()
    one_draw = squares.mean(), (squares / (NUM_SAMPLES * probabilities)).mean()
    uniform, weighted = (signal + (moment - signal) / BATCH_SIZE for moment in one_draw)
    return float(uniform / weighted)


def report_half_batches(model, inputs, targets, draw, gain):
    """Report the signal of the two halves of a batch."""
    halves = []
    for half in (slice(None, BATCH_SIZE // 2), slice(BATCH_SIZE // 2, None)):
        losses = F.cross_entropy(model(inputs[half]), targets[half], reduction="none")
        halves.append(torch.autograd.grad((draw.weights[half] * losses).mean(), list(model.parameters())))
    gain.observe_signal(*half_batch_signal(*halves))


def train(signal, share_of_hard, rate):
    """Train softmax regression; return the estimated ratio, the true one, and the upper bound without a signal."""
    inputs, targets = mixed_data(share_of_hard)
    model = nn.Linear(8, 3, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    sampler = make_sampler(NUM_SAMPLES, BATCH_SIZE, "last-loss", smoothing="adaptive")
    gain_lr = GainLR(LambdaLR(optimizer, lambda step: 1.0), sampler, scale_rate=False, signal=signal, signal_every=1)
    rows = []
    for step in range(STEPS):
        if step in MEASURED:
            truth = true_ratio(model, inputs, targets, sampler.probabilities())
            rows.append([gain_lr.ratio, truth, sampler.gain.variance_ratio])
        draw = sampler.draw()
        x, y = inputs[draw.indices], targets[draw.indices]
        if signal is None:
            report_half_batches(model, x, y, draw, sampler.gain)
        logits = model(x)
        optimizer.zero_grad()
        draw.weighted_mean(F.cross_entropy(logits, y, reduction="none")).backward()
        optimizer.step()
        sampler.update(draw, upper_bound(logits, y))
        gain_lr.step()
    return torch.tensor(rows, dtype=torch.float64).mean(0).tolist()


@pytest.mark.parametrize("signal", ["momentum", None], ids=["momentum", "half batches"])
@pytest.mark.parametrize(("share_of_hard", "rate"), [(0.03, 1e-3), (0.1, 3e-4)])
def test_the_gain_ratio_of_full_gradients_is_found_from_loss_layer_norms_and_the_signal(signal, share_of_hard, rate):
    estimated, truth, without_signal = train(signal, share_of_hard, rate)
    assert truth > 1.15
    assert estimated == pytest.approx(truth, rel=0.2)
    assert without_signal > 1.2 * truth  # so that it takes the signal to be this close
