import pickle

import pytest
import torch
from sample_sets import Fetched, Labelled, Numbers, Stream, Unsized, collate_to_text, do_nothing
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from approx_is.loader import BatchRequest, check_loader, rebuild_loader

REQUESTS = [BatchRequest(5, [3, 0, 3]), BatchRequest(2, [1])]


def rebuild(loader, requests=REQUESTS):
    return rebuild_loader(loader, requests, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shuffle", [True, False])
def test_loaders_that_only_shuffle_are_accepted(shuffle):
    assert check_loader(DataLoader(Numbers(10), batch_size=4, shuffle=shuffle)) == (10, 4)


def test_a_list_is_a_data_set():
    assert check_loader(DataLoader([1, 2, 3])) == (3, 1)


def test_fewer_samples_than_a_batch_are_accepted_unless_dropped():
    assert check_loader(DataLoader(Numbers(3), batch_size=4)) == (3, 4)
    with pytest.raises(ValueError, match="would have no batches: 3 samples, batch_size=4 and drop_last=True"):
        check_loader(DataLoader(Numbers(3), batch_size=4, drop_last=True))


@pytest.mark.parametrize("what", [[1, 2], Numbers(3), iter([1])])
def test_what_is_no_loader_is_refused(what):
    with pytest.raises(TypeError, match=f"must be a torch.utils.data.DataLoader; got {type(what).__name__}"):
        check_loader(what)


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (DataLoader(Stream(), batch_size=2), "draws samples by index; an IterableDataset has none. Use a map-style"),
        (DataLoader(Stream(), batch_size=None), "draws samples by index; an IterableDataset has none. Use a map-style"),
        (DataLoader(Numbers(4), batch_size=None), "makes the batches itself; got a loader with batch_size=None or a"),
        (
            DataLoader(Numbers(4), batch_sampler=BatchSampler(SequentialSampler(range(4)), 2, drop_last=False)),
            "makes the batches itself; got a loader with batch_size=None or a batch_sampler. Build it with",
        ),
        (
            DataLoader(Numbers(4), batch_size=2, sampler=SubsetRandomSampler([0, 1])),
            "chooses the samples itself; got a loader with a SubsetRandomSampler. .* torch.utils.data.Subset to leave",
        ),
        (
            DataLoader(Numbers(4), batch_size=2, sampler=WeightedRandomSampler([1.0, 2.0, 3.0, 4.0], 4)),
            "chooses the samples itself; got a loader with a WeightedRandomSampler",
        ),
        (
            DataLoader(Numbers(4), batch_size=2, sampler=RandomSampler(range(4), num_samples=6, replacement=True)),
            r"draws len\(dataset\) = 4 samples an epoch; got a loader whose RandomSampler draws 6. Build it with",
        ),
        (DataLoader(Unsized(), batch_size=2), "needs to know how many samples there are; Unsized has no length"),
        (DataLoader(Numbers(0), batch_size=2), "needs at least one sample; the data set is empty"),
    ],
)
def test_loaders_whose_batches_are_not_ours_to_choose_are_refused(loader, match):
    with pytest.raises(ValueError, match=rf"`ApproxSampler\(loader\)` {match}"):
        check_loader(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_as_asked_for_with_their_number(num_workers):
    served = list(rebuild(DataLoader(Numbers(5), num_workers=num_workers)))
    assert [(serial, batch.tolist()) for serial, batch in served] == [(5, [3, 0, 3]), (2, [1])]


def test_batches_of_a_data_set_that_fetches_them_whole():
    assert [batch.tolist() for _, batch in rebuild(DataLoader(Fetched(5)))] == [[3, 0, 3], [1]]


def test_batches_of_a_subset_are_of_its_own_samples():
    loader = DataLoader(Subset(Numbers(50), [40, 41, 42, 43]))
    assert [batch.tolist() for _, batch in rebuild(loader)] == [[43, 40, 43], [41]]


def test_collate_function_is_the_users():
    assert list(rebuild(DataLoader(Numbers(5), collate_fn=collate_to_text))) == [(5, "3-0-3"), (2, "1")]


def test_settings_are_kept():
    settings = {
        "num_workers": 2,
        "pin_memory": True,
        "timeout": 7.0,
        "worker_init_fn": do_nothing,
        "multiprocessing_context": "spawn",
        "prefetch_factor": 3,
        "persistent_workers": True,
        "in_order": False,
    }
    loader = DataLoader(Numbers(5), **settings)
    rebuilt = rebuild(loader)
    kept = {name: getattr(rebuilt, name) for name in settings}
    assert kept.pop("multiprocessing_context").get_start_method() == "spawn"
    assert kept == {name: value for name, value in settings.items() if name != "multiprocessing_context"}


def test_the_users_loader_is_left_as_it_is():
    loader = DataLoader(Numbers(5), batch_size=2, collate_fn=collate_to_text)
    before = dict(vars(loader))
    list(rebuild(loader))
    assert vars(loader) == before
    assert list(loader) == ["0-1", "2-3", "4"]


def test_workers_ask_the_wrapped_data_set_for_what_it_has():
    wrapped = rebuild(DataLoader(Labelled([7, 8]))).dataset
    assert wrapped.targets == [7, 8]
    assert len(wrapped) == 2
    with pytest.raises(AttributeError, match="'Labelled' object has no attribute 'colour'"):
        _ = wrapped.colour


def test_the_wrapped_data_set_can_be_sent_to_a_worker():
    wrapped = pickle.loads(pickle.dumps(rebuild(DataLoader(Labelled([7, 8]))).dataset))
    assert wrapped.targets == [7, 8]
    assert wrapped.__getitems__(BatchRequest(4, [1])) == (4, [1])
