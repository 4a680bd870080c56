"""Per-sample gradient norms: against autograd sample by sample, closed forms, what stays untouched, and errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from laws import assert_global_randomness_untouched
from torch import nn

from approx_is import upper_bound
from approx_is.gradient_norms import per_sample_gradient_norms


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.output = nn.Linear(4, 6, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(torch.tanh(self.embedding(tokens).mean(1)))


class Counting(nn.Module):
    """Updates a buffer and normalises by running statistics."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.norm(self.linear(inputs))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, first, second):
        return self.left(first) - self.right(second)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def convolution():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))


def frozen():
    model = mlp()
    model[0].requires_grad_(False)
    return model


def unused():
    model = mlp()
    model.register_parameter("spare", nn.Parameter(torch.ones(5)))
    return model


MODELS = {
    "mlp": (mlp, lambda: torch.randn(5, 4)),
    "convolution": (convolution, lambda: torch.randn(5, 1, 5, 5)),
    "frozen": (frozen, lambda: torch.randn(5, 4)),
    "unused": (unused, lambda: torch.randn(5, 4)),
    "tied": (Tied, lambda: torch.randint(6, (5, 3))),
    "batch-norm-eval": (lambda: Counting().eval(), lambda: torch.randn(5, 4)),
}


def make(name):
    model, inputs = MODELS[name]
    return model(), inputs(), torch.randint(3, (5,))


def norm_of_one(model, loss_fn, inputs, targets):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss_fn(model(inputs), targets).sum(), parameters, allow_unused=True)
    return math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients if gradient is not None))


def norms_one_by_one(model, loss_fn, inputs, targets):
    samples = zip(inputs.split(1), targets.split(1), strict=True)
    return torch.tensor([norm_of_one(model, loss_fn, *sample) for sample in samples])


def losses_of(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss_fn", [F.cross_entropy, losses_of], ids=["scalar", "vector"])
def test_norms_are_those_of_autograd_sample_by_sample(name, loss_fn):
    model, inputs, targets = make(name)
    found = per_sample_gradient_norms(model, loss_fn, inputs, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, norms_one_by_one(model, loss_fn, inputs, targets), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (1, 5), (2, 3), (5, 1), (100, 1)])
def test_chunks_are_taken_in_turn_and_change_nothing(chunk_size, chunks):
    model, inputs, targets = make("mlp")
    calls = []

    def counted(outputs, targets):
        calls.append(len(outputs))
        return F.cross_entropy(outputs, targets)

    found = per_sample_gradient_norms(model, counted, inputs, targets, chunk_size=chunk_size)
    assert calls == [1] * chunks
    torch.testing.assert_close(found, per_sample_gradient_norms(model, F.cross_entropy, inputs, targets))


@pytest.mark.parametrize("bias", [True, False])
def test_of_a_linear_layer_the_norm_is_the_upper_bound_times_that_of_the_input(bias):
    model, inputs = nn.Linear(7, 5, bias=bias).double(), torch.randn(20, 7, dtype=torch.float64)
    targets = torch.arange(20) % 5
    size = inputs.square().sum(1) + (1.0 if bias else 0.0)
    expected = upper_bound(model(inputs), targets) * size.sqrt().float()
    torch.testing.assert_close(per_sample_gradient_norms(model, F.cross_entropy, inputs, targets), expected)


@pytest.mark.parametrize(
    ("loss", "loss_fn"),
    [
        ("binary-cross-entropy", lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum")),
        ("squared", lambda z, y: F.mse_loss(z, y, reduction="sum")),
    ],
)
def test_the_identity_of_the_linear_layer_holds_for_every_loss(loss, loss_fn):
    model, inputs, targets = nn.Linear(7, 5), torch.randn(20, 7), torch.rand(20, 5)
    expected = upper_bound(model(inputs), targets, loss=loss) * (inputs.square().sum(1) + 1).sqrt()
    torch.testing.assert_close(per_sample_gradient_norms(model, loss_fn, inputs, targets), expected)


def test_least_squares_on_a_line_gives_the_closed_form():
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(1.0)
    # errors 2x + 1 - y: 1, 4; gradient 2 error (x, 1)
    inputs, targets = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [3.0]])
    found = per_sample_gradient_norms(model, F.mse_loss, inputs, targets)
    assert found.tolist() == pytest.approx([2.0, 8 * math.sqrt(10)])


def test_tiny_gradients_do_not_underflow():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[80.0], [0.0]]))
    found = per_sample_gradient_norms(
        model, lambda z, y: 1e-30 * F.cross_entropy(z, y), torch.ones(1, 1), torch.tensor([1])
    )
    assert found.item() == pytest.approx(1e-30 * math.sqrt(2), rel=1e-5, abs=0)


@pytest.mark.parametrize("pack", [lambda a, b: (a, b), lambda a, b: {"second": b, "first": a}], ids=["tuple", "dict"])
def test_inputs_may_be_several(pack):
    model, first, second, targets = TwoInputs(), torch.randn(5, 4), torch.randn(5, 2), torch.arange(5) % 3
    joined = nn.Linear(6, 3)  # the same function of the inputs side by side, with one bias in place of two
    with torch.no_grad():
        joined.weight.copy_(torch.cat([model.left.weight, -model.right.weight], dim=1))
        joined.bias.copy_(model.left.bias - model.right.bias)
    sizes = torch.cat([first, second], dim=1).square().sum(1)
    expected = upper_bound(joined(torch.cat([first, second], dim=1)), targets) * (sizes + 2).sqrt()
    found = per_sample_gradient_norms(model, F.cross_entropy, pack(first, second), targets)
    torch.testing.assert_close(found, expected)


def test_half_precision_parameters_give_float32_norms():
    model, inputs, targets = make("mlp")
    expected = per_sample_gradient_norms(model, F.cross_entropy, inputs, targets)
    found = per_sample_gradient_norms(model.bfloat16(), F.cross_entropy, inputs.bfloat16(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"])
def test_gradients_are_taken_where_they_are_switched_off(context):
    model, inputs, targets = make("convolution")
    expected = per_sample_gradient_norms(model, F.cross_entropy, inputs, targets)
    with context():
        found = per_sample_gradient_norms(model, F.cross_entropy, inputs.clone(), targets)
    assert torch.equal(found, expected)


def test_norms_are_detached_even_from_the_inputs():
    model, inputs, targets = make("mlp")
    assert not per_sample_gradient_norms(model, F.cross_entropy, inputs.requires_grad_(), targets).requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_has_no_norms(name):
    model, inputs, targets = make(name)
    found = per_sample_gradient_norms(model, F.cross_entropy, inputs[:0], targets[:0], chunk_size=2)
    assert found.shape == (0,)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_model_and_global_randomness_stay_as_they_were(name):
    model, inputs, targets = make(name)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    parameters, state = list(model.parameters()), {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with assert_global_randomness_untouched():
        per_sample_gradient_norms(model, F.cross_entropy, inputs, targets)
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(bool((parameter.grad == 7.0).all()) for parameter in parameters)
    assert [module.training for module in model.modules()] == modes


def test_a_loss_that_raises_leaves_the_model_as_it_was():
    model, inputs, targets = make("mlp")
    parameters = list(model.parameters())

    def failing(outputs, targets):
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        per_sample_gradient_norms(model, failing, inputs, targets)
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))


def test_dropout_draws_a_mask_a_sample_from_the_global_generator():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 3))
    inputs, targets = torch.ones(32, 16), torch.zeros(32, dtype=torch.int64)
    torch.manual_seed(1)
    first = per_sample_gradient_norms(model, F.cross_entropy, inputs, targets)
    torch.manual_seed(1)
    again = per_sample_gradient_norms(model, F.cross_entropy, inputs, targets)
    assert torch.equal(first, again)
    assert len(first.unique()) > 16
    still = per_sample_gradient_norms(model.eval(), F.cross_entropy, inputs, targets)
    assert len(still.unique()) == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "BatchNorm1d '1'"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(), "BatchNorm1d '1'"),
        (nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.SyncBatchNorm(3))), "SyncBatchNorm '1.0'"),
    ],
    ids=["training", "no-running-statistics", "nested"],
)
def test_batch_normalisation_by_the_batch_is_refused_by_name(model, name):
    with pytest.raises(ValueError, match=rf"must treat samples apart; got {name}, .*Call model\.eval\(\)"):
        per_sample_gradient_norms(model, F.cross_entropy, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"must have a trainable parameter; got none"):
        per_sample_gradient_norms(mlp().requires_grad_(False), F.cross_entropy, torch.zeros(1, 4), torch.tensor([0]))


@pytest.mark.parametrize(
    ("loss_fn", "found"),
    [
        (lambda outputs, targets: outputs, r"shape \[1, 3\]"),
        (lambda outputs, targets: 1.0, "float"),
        (lambda outputs, targets: outputs[:0, 0], r"shape \[0\]"),
    ],
    ids=["outputs", "number", "nothing"],
)
def test_a_loss_that_is_not_one_number_is_refused(loss_fn, found):
    with pytest.raises(ValueError, match=rf"must return a scalar or a tensor of shape \[1\] .* got {found}\."):
        per_sample_gradient_norms(mlp(), loss_fn, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("inputs", "targets", "found"),
    [
        ((2, 4), (3,), r"\[\[2, 4\]\] and \[3\]"),
        ((), (3,), r"\[\[\]\] and \[3\]"),
        ((2, 4), (), r"\[\[2, 4\]\] and \[\]"),
        ((), (), r"\[\[\]\] and \[\]"),
    ],
)
def test_samples_that_differ_in_number_are_refused(inputs, targets, found):
    with pytest.raises(
        ValueError, match=rf"must have the samples as first dimension, equally many; got shapes {found}"
    ):
        per_sample_gradient_norms(mlp(), F.cross_entropy, torch.zeros(inputs), torch.zeros(targets))


def test_no_inputs_are_refused():
    with pytest.raises(ValueError, match=r"equally many; got shapes \[\] and \[3\]"):
        per_sample_gradient_norms(mlp(), F.cross_entropy, (), torch.zeros(3))


@pytest.mark.parametrize(
    ("inputs", "found"), [([[0.0] * 4], "list"), (({"a": 1},), "dict"), ({"input": None}, "NoneType")]
)
def test_inputs_that_are_not_tensors_are_refused(inputs, found):
    with pytest.raises(TypeError, match=rf"inputs also a tuple or mapping of them; got {found}\."):
        per_sample_gradient_norms(mlp(), F.cross_entropy, inputs, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(("chunk_size", "error"), [(0, ValueError), (1.5, TypeError)])
def test_chunk_sizes_below_1_are_refused(chunk_size, error):
    model, inputs, targets = make("mlp")
    with pytest.raises(error, match=r"`per_sample_gradient_norms\(chunk_size=\.\.\.\)` must be"):
        per_sample_gradient_norms(model, F.cross_entropy, inputs, targets, chunk_size=chunk_size)
