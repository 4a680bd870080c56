"""Where Python may look at values without waiting, and how it waits elsewhere."""

import pytest
import torch

from approx_is.host import is_on_host, wait_for_accelerators


def test_what_is_on_the_host_can_be_read_at_once():
    assert is_on_host(torch.zeros(1))
    assert not is_on_host(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerator_is_waited_for_if_it_is_used_and_else_not_started(monkeypatch, kind, is_used):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "is_initialized", lambda: is_used)
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda: waited.append(kind))
    wait_for_accelerators()
    assert waited == [kind] * is_used


@pytest.mark.parametrize("is_available", [True, False])
def test_one_that_says_only_whether_it_is_there(monkeypatch, is_available):
    waited = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: is_available)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    wait_for_accelerators()
    assert waited == ["mps"] * is_available
