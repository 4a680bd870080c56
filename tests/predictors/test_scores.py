"""Built-in scores: closed forms, torch's own losses sample by sample, devices, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from approx_is import per_sample_gradient_norms, upper_bound
from approx_is.predictors.scores import gradient_norm_score, loss_score, upper_bound_score

SCORES = [loss_score, upper_bound_score, gradient_norm_score]


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Outputs(nn.Module):
    """Returns its inputs as outputs, and has a parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        return inputs + self.shift


def test_golden_values_of_zero_logits():
    batch = (torch.zeros(3, 10), torch.tensor([0, 4, 9]))
    assert loss_score(Outputs(), batch).tolist() == pytest.approx([2.302585] * 3, abs=1e-6)
    assert upper_bound_score(Outputs(), batch).tolist() == pytest.approx([0.948683] * 3, abs=1e-6)


def test_golden_values_of_gradient_norms():
    model = nn.Linear(2, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batch = (torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1]))
    expected = [math.sqrt(2 / 3), 3 * math.sqrt(2 / 3)]  # √(1 - 1/C) √(1 + |x|²)
    assert gradient_norm_score(model, batch).tolist() == pytest.approx(expected, rel=1e-6)


def test_other_losses_by_hand():
    outputs, targets = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[1, 0], [1, 1]])
    log_2, softplus = math.log(2), math.log1p(math.exp(-2.0))
    binary = loss_score(Outputs(), (outputs, targets), "binary-cross-entropy")
    assert binary.tolist() == pytest.approx([log_2, (log_2 + softplus) / 2], rel=1e-6)
    assert loss_score(Outputs(), (outputs, targets), "squared").tolist() == [0.5, 1.0]
    sigmoid = 1 / (1 + math.exp(2.0))
    binary = upper_bound_score(Outputs(), (outputs, targets.float()), "binary-cross-entropy")
    assert binary.tolist() == pytest.approx([math.sqrt(0.5), math.hypot(0.5, sigmoid)], rel=1e-6)
    squared = upper_bound_score(Outputs(), (outputs, targets), "squared")
    assert squared.tolist() == pytest.approx([2.0, 2 * math.sqrt(2.0)], rel=1e-6)


def test_outputs_of_one_number_a_sample_need_no_second_dimension():
    batch = (torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    assert loss_score(Outputs(), batch, "squared").tolist() == [1.0, 9.0]
    assert upper_bound_score(Outputs(), batch, "squared").tolist() == [2.0, 6.0]
    assert gradient_norm_score(Outputs(), batch, "squared").tolist() == [2.0, 6.0]


def test_positions_are_averaged_and_ignored_ones_count_as_0():
    logits, targets = torch.randn(3, 5, 4), torch.randint(5, (3, 4))
    targets[1, 2:] = -100
    losses = loss_score(Outputs(), (logits, targets))
    expected = [F.cross_entropy(logits[row].T, targets[row], reduction="sum").item() / 4 for row in range(3)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(upper_bound_score(Outputs(), (logits, targets)), upper_bound(logits, targets))


def test_soft_targets():
    logits, targets = torch.randn(3, 5), torch.rand(3, 5)
    expected = [F.cross_entropy(logits[row], targets[row]).item() for row in range(3)]
    assert loss_score(Outputs(), (logits, targets)).tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient_norms_are_those_of_the_loss_that_is_scored():
    model, batch = nn.Linear(4, 2), [torch.randn(5, 4), torch.randn(5, 2)]
    expected = per_sample_gradient_norms(model, F.mse_loss, *batch)
    torch.testing.assert_close(gradient_norm_score(model, batch, "squared"), expected)


def test_losses_of_half_precision_outputs_are_computed_in_full():
    logits = torch.tensor([[9.0, 0.0]])
    half = loss_score(nn.Identity(), (logits.bfloat16(), torch.tensor([0])))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(math.log1p(math.exp(-9.0)), rel=1e-3)


@pytest.mark.parametrize("score", SCORES)
def test_batches_go_to_the_model(score):
    model = nn.Linear(3, 2).to("meta")
    moved = []
    model.register_forward_pre_hook(lambda module, inputs: moved.append(inputs[0].device.type))
    score(model, (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))
    assert moved == ["meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("score", SCORES)
def test_scores_on_a_gpu_are_those_on_the_cpu(score):
    model, (inputs, targets) = nn.Linear(3, 2), (torch.randn(4, 3), torch.randint(2, (4,)))
    expected = score(model, (inputs, targets)).detach()
    found = score(model.cuda(), (inputs.pin_memory(), targets.pin_memory()))
    assert found.is_cuda
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"x": torch.ones(2, 3), "y": torch.zeros(2)}, "dict"),
        (torch.ones(2, 3), "Tensor"),
        ((torch.ones(2, 3),), "tuple of Tensor"),
        ([], "list of nothing"),
        ((torch.ones(2, 3), torch.zeros(2), torch.zeros(2)), "tuple of Tensor, Tensor, Tensor"),
        (([torch.ones(2, 3)], torch.zeros(2)), "tuple of list, Tensor"),
        ((torch.ones(2, 3), ["a", "b"]), "tuple of Tensor, list"),
    ],
)
def test_batches_that_are_no_pair_of_tensors_are_refused(score, batch, found):
    with pytest.raises(ValueError, match=rf"takes a batch \(inputs, targets\) .* got {found}\. Pass `score=`"):
        score(nn.Linear(3, 2), batch)


class Wrapping(nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs)}


@pytest.mark.parametrize("score", SCORES)
def test_models_that_return_no_tensor_are_refused(score):
    with pytest.raises(ValueError, match=r"a model that returns a tensor; got dict\. Pass `score=`"):
        score(Wrapping(3, 2), (torch.ones(2, 3), torch.tensor([0, 1])))


@pytest.mark.parametrize("score", SCORES)
def test_unknown_losses_are_refused(score):
    message = rf"`{score.__name__}\(loss=\.\.\.\)` must be one of 'cross-entropy', .*; got 'hinge'\. .*`score=`"
    with pytest.raises(ValueError, match=message):
        score(nn.Linear(3, 2), (torch.ones(2, 3), torch.tensor([0, 1])), "hinge")


@pytest.mark.parametrize("loss", ["squared", "binary-cross-entropy"])
def test_nothing_is_broadcast(loss):
    with pytest.raises(ValueError, match=r"must have the same shape .*; got \[2, 1\] and \[2\]\. Reshape one of them"):
        loss_score(Outputs(), (torch.ones(2, 1), torch.ones(2)), loss)
