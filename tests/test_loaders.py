"""Tests of data sets and loaders of PyTorch: training resumes on them bit for bit."""

import contextlib
import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import uncollapse as uc
from uncollapse._utils.errors import InputError, LostDataError
from uncollapse._utils.signals import Terminated
from uncollapse.data import stored as stored_data
from uncollapse.data.loaders import LoadedRows, StoredDataset
from uncollapse.estimators import data_summary as estimators_stored
from uncollapse.training import loop
from uncollapse.training.batches import BatchesFromLoader

SMALL = {
    "latent_dim": 2,
    "hidden": (8, 8),
    "max_epochs": 3,
    "batch_size": 50,
    "random_state": 0,
    "verbose": False,
}
X = np.random.default_rng(0).normal(size=(123, 4)).astype(np.float32)
ROWS = TensorDataset(torch.as_tensor(X), torch.arange(len(X)))
NUMBERED = TensorDataset(torch.arange(123.0)[:, None])


class Items(Dataset):
    """A data set of the items of a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Noisy(Items):
    """Items with noise from torch's generator, as crops of images have."""

    def __getitem__(self, index):
        return self.items[index] + 0.1 * torch.randn(4)


class Stream(IterableDataset):
    """Items that can only be iterated over."""

    def __iter__(self):
        return iter(X)


class Fatal(Items):
    """Items of which one kills the process that reads it, once a file exists."""

    def __init__(self, items, path):
        super().__init__(items)
        self.path = path

    def __getitem__(self, index):
        if index == 77 and self.path.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.items[index]


def equal(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.model_.parameters(), other.model_.parameters(), strict=True)
    )


def rows_of(loader, seed=0):
    loaded = LoadedRows(loader)
    list(loaded.blocks())
    return BatchesFromLoader(loaded, seed, X)


@pytest.fixture
def after_steps(monkeypatch):
    """Return a context in which an action runs at the end of a step."""

    @contextlib.contextmanager
    def within(n, action):
        original = loop.Training._take_step

        def acting(self, rows):
            original(self, rows)
            if self.steps_done == n:
                action()

        with monkeypatch.context() as patched:
            patched.setattr(loop.Training, "_take_step", acting)
            yield

    return within


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_data_set_is_trained_on_as_the_same_rows_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_data, "BLOCK_BYTES", 160)
    monkeypatch.setattr(estimators_stored, "MAX_IN_MEMORY", 0)
    np.save(tmp_path / "x.npy", X)
    of_file = uc.VAE(**SMALL).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    of_set = uc.VAE(**SMALL).fit(ROWS)
    assert equal(of_file, of_set)
    assert of_set.n_features_in_ == 4
    assert np.allclose(of_set.transform(ROWS), of_set.transform(X), atol=1e-6)
    assert np.allclose(of_set.score_samples(ROWS, 8), of_set.score_samples(X, 8), atol=1e-5)
    assert np.array_equal(of_set.check_rows(ROWS), X)


def test_images_become_rows():
    stored = StoredDataset(
        Items([(torch.full((1, 2, 3), float(index)), "label") for index in range(5)])
    )
    assert stored.shape == (5, 6)
    assert np.array_equal(
        np.concatenate(list(stored.blocks())), np.repeat(np.arange(5.0)[:, None], 6, 1)
    )
    images = Items([torch.randn(1, 2, 3) for _ in range(60)])
    vae = uc.VAE(**SMALL).fit(images)
    assert vae.transform(DataLoader(images, 7)).shape == (60, 2)
    assert uc.diagnose(vae, images, thorough=False, verbose=False).n_examples == 60


def test_batches_are_those_of_the_loader():
    rows = rows_of(DataLoader(NUMBERED, 50))
    assert (len(rows), rows.n_batches) == (123, 3)
    for epoch in (0, 1):
        assert [batch[:, 0].tolist() for batch in rows.batches(epoch)] == [
            list(map(float, part)) for part in (range(50), range(50, 100), range(100, 123))
        ]
    dropping = rows_of(DataLoader(NUMBERED, 50, drop_last=True))
    assert (len(dropping), dropping.n_batches) == (100, 2)
    assert (
        rows_of(DataLoader(ROWS, 50)).n_batches
        == uc.VAE(**SMALL).fit(DataLoader(ROWS, 50)).history_.shape[0]
        == 3
    )


LOADERS = {
    "shuffled": lambda: DataLoader(NUMBERED, 16, shuffle=True),
    "its own generator": lambda: DataLoader(
        NUMBERED, 16, shuffle=True, generator=torch.Generator()
    ),
    "a sampler's generator": lambda: DataLoader(
        NUMBERED, 16, sampler=RandomSampler(NUMBERED, replacement=True, generator=torch.Generator())
    ),
    "processes": lambda: DataLoader(NUMBERED, 16, shuffle=True, num_workers=2),
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_order_of_a_loader_depends_on_the_seed_and_the_epoch_alone(name):
    rows = rows_of(LOADERS[name]())
    before = torch.get_rng_state()
    first, second = (torch.cat(list(rows.batches(epoch)))[:, 0] for epoch in (0, 1))
    torch.rand(3)  # what others draw is of no matter
    again = rows_of(LOADERS[name]())
    assert torch.equal(torch.cat(list(again.batches(1, 3)))[:, 0], second[48:])
    assert torch.equal(torch.cat(list(again.batches(0)))[:, 0], first)
    assert not torch.equal(first, second)
    assert not torch.equal(
        torch.cat(list(rows_of(LOADERS[name](), seed=1).batches(0)))[:, 0], first
    )
    if "sampler" not in name:
        assert sorted(first.tolist()) == list(range(123))
    torch.set_rng_state(before)
    list(rows.batches(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_samplers_are_told_the_epoch():
    epochs = []

    class Told(RandomSampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    uc.VAE(**SMALL).fit(DataLoader(ROWS, 50, sampler=Told(ROWS)))
    assert epochs == [0, 0, 1, 2]  # of the reading before, and of the training


FEEDS = {
    "a data set": lambda: ROWS,
    "a data set that draws": lambda: Noisy(list(torch.as_tensor(X))),
    "a loader": lambda: DataLoader(ROWS, 20, shuffle=True),
    "a loader that draws": lambda: DataLoader(Noisy(list(torch.as_tensor(X))), 20, shuffle=True),
    "a stream": Stream,
}


@pytest.mark.parametrize("name", FEEDS)
def test_an_interrupted_training_goes_on(name, tmp_path, after_steps):
    whole = uc.VAE(**{**SMALL, "batch_size": 20}).fit(FEEDS[name]())
    with after_steps(10, terminate), pytest.raises(Terminated):
        uc.VAE(**{**SMALL, "batch_size": 20}).fit(FEEDS[name](), checkpoint=tmp_path / "state")
    again = uc.VAE(**{**SMALL, "batch_size": 20}).fit(FEEDS[name](), checkpoint=tmp_path / "state")
    assert equal(whole, again)


def test_other_batches_are_another_training(tmp_path, after_steps):
    with after_steps(2, terminate), pytest.raises(Terminated):
        uc.VAE(**SMALL).fit(DataLoader(ROWS, 20), checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"belongs to another training \(digest was"):
        uc.VAE(**SMALL).fit(DataLoader(ROWS, 25), checkpoint=tmp_path)


def test_a_training_on_data_that_draw_elsewhere_cannot_be_taken_up_and_says_why(
    tmp_path, after_steps
):
    class Drawn(Items):
        def __getitem__(self, index):
            return self.items[index] + random.gauss()

    with after_steps(2, terminate), pytest.raises(Terminated):
        uc.VAE(**SMALL).fit(Drawn(X), checkpoint=tmp_path)
    with pytest.raises(
        InputError,
        match="the rows or their batches differ, or are drawn by generators other than torch's",
    ):
        uc.VAE(**SMALL).fit(Drawn(X), checkpoint=tmp_path)


def test_a_killed_process_of_a_loader_is_reported_in_one_line(tmp_path, after_steps):
    """The state of the training that was written last is taken up once the loader's processes
    live."""
    trigger = tmp_path / "now"

    def loader():
        return DataLoader(Fatal(X, trigger), 20, shuffle=True, num_workers=2)

    vae = uc.VAE(**SMALL)
    complaint = r"a DataLoader worker has died \(DataLoader worker"
    with after_steps(10, trigger.touch), pytest.raises(LostDataError, match=complaint):
        vae.fit(loader(), checkpoint=tmp_path / "state")
    assert len(vae.history_) >= 1
    assert np.isfinite(vae.transform(X)).all()
    with pytest.raises(LostDataError, match="has died"):
        vae.transform(DataLoader(Fatal(X, trigger), 20, num_workers=1))
    with pytest.raises(LostDataError, match="has died"):
        uc.diagnose(vae, DataLoader(Fatal(X, trigger), 20, num_workers=1), verbose=False)
    trigger.unlink()
    assert equal(
        uc.VAE(**SMALL).fit(loader()), uc.VAE(**SMALL).fit(loader(), checkpoint=tmp_path / "state")
    )


def test_other_errors_of_a_loader_stay_what_they_are():
    class Broken(Items):
        def __getitem__(self, index):
            raise RuntimeError("of somebody else")

    with pytest.raises(RuntimeError, match="of somebody else"):
        uc.VAE(**SMALL).fit(DataLoader(Broken(X), 20))


class Lost(Items):
    """Items that raise an error at one of them, once told to."""

    error = None

    def __getitem__(self, index):
        if index == 77 and self.error is not None:
            raise self.error
        return self.items[index]


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file", "77.png"), IndexError("index 77 is out of bounds")],
)
@pytest.mark.parametrize("feed", [lambda items: items, lambda items: DataLoader(items, 20)])
def test_items_that_cannot_be_read_have_changed_only_if_they_were_there(error, feed, after_steps):
    items = Lost(X)
    items.error = error
    with pytest.raises(
        InputError, match=r"X cannot be read \(.*77.*\): check what its rows come from"
    ) as never_there:
        uc.VAE(**SMALL).fit(feed(items))
    assert not isinstance(never_there.value, LostDataError)
    items.error = None
    with (
        after_steps(2, lambda: setattr(items, "error", error)),
        pytest.raises(LostDataError, match="X has changed while it was"),
    ):
        uc.VAE(**{**SMALL, "batch_size": 20}).fit(feed(items))


def one_of_four():
    return [np.ones(3)] * 5 + [np.ones(4)]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (Items([]), "at least one example, got an empty one"),
        (DataLoader(Items([]), 2), "got an empty loader"),
        (Items(["a", "b"]), "numbers of one shape, or tuples with such first, got str"),
        (DataLoader(Items(["a", "b"]), 2), "expects numbers, one row for each example, got str"),
        (Items([{"x": 1.0}] * 3), "got dictionaries"),
        (DataLoader(Items([{"x": 1.0}] * 3), 2), "got dictionaries"),
        (Items(one_of_four()), r"got ndarray of shape \(3,\) and ndarray of shape \(4,\)"),
        (
            DataLoader(Items(one_of_four()), 1),
            r"expects 3 numbers in every row, as at first, got 4.*message is row 5 of the data",
        ),
        (Items([1.0, 2.0]), r"at least two dimensions \(rows, features\)"),
        (DataLoader(Stream(), batch_size=None), r"at least two dimensions \(rows, features\)"),
        (
            DataLoader(Items([*X[:5], np.full(4, np.nan)]), 2),
            r"got 4 NaN.*the first in row 1.*message is row 4 of the data",
        ),
        (Items([*X[:5], np.full(4, np.inf)]), r"4 infinite \(inf\) values, the first in row 5"),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(given, complaint):
    with pytest.raises(InputError, match=complaint):
        uc.VAE(**SMALL).fit(given)


def test_a_stream_that_gives_nothing_the_second_time_is_told_of():
    class Once(IterableDataset):
        items = iter(X)

        def __iter__(self):
            return self.items

    with pytest.raises(InputError, match="at least one example in each epoch"):
        uc.VAE(**SMALL).fit(Once())


class Changing(IterableDataset):
    """A loader that gives other numbers of rows in each pass; the last number repeats."""

    def __init__(self, *counts):
        self.counts = list(counts)

    def __iter__(self):
        return iter(X[: self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]])


@pytest.mark.parametrize(
    ("counts", "complaint", "n_epochs"),
    [
        ((120, 80), "80 rows instead of 120", 0),
        ((120, 120, 70), "more batches of 10 rows than before", 1),
        ((80, 80, 80, 120), "more batches of 20 rows than before", 2),
        ((80, 81), "more batches of 1 rows than before", 0),
    ],
)
def test_a_stream_that_is_another_in_a_later_epoch_is_told_of(counts, complaint, n_epochs):
    vae = uc.VAE(**{**SMALL, "batch_size": 20})
    with pytest.raises(LostDataError, match=rf"X has changed while it was read \({complaint}"):
        vae.fit(Changing(*counts))
    assert len(vae.history_) == n_epochs
    uc.VAE(**{**SMALL, "batch_size": 20}).fit(Changing(100))


def test_batches_may_be_cut_by_the_users_own_sampler():
    class Random:
        def __iter__(self):
            return iter(torch.randperm(123).split(int(torch.randint(10, 60, ()))))

    vae = uc.VAE(**SMALL).fit(DataLoader(ROWS, batch_sampler=Random()))
    assert len(vae.history_) == 3


def test_data_that_draw_give_the_same_results_and_leave_generators_alone():
    noisy, generator = Noisy(list(torch.as_tensor(X))), torch.Generator().manual_seed(7)
    before, own = torch.get_rng_state(), generator.get_state()
    vae = uc.VAE(**SMALL).fit(DataLoader(noisy, 20, shuffle=True, generator=generator))
    assert torch.equal(generator.get_state(), own)
    for feed in (noisy, DataLoader(noisy, 20)):
        first = vae.transform(feed)
        torch.rand(3)
        assert np.array_equal(vae.transform(feed), first)
    torch.set_rng_state(before)
    vae.transform(noisy)
    StoredDataset(noisy)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_have_results_in_their_order_or_none():
    vae = uc.VAE(**SMALL).fit(ROWS)
    for loader in (DataLoader(ROWS, 10), DataLoader(Stream(), 10), Stream()):
        assert np.allclose(vae.transform(loader), vae.transform(X), atol=1e-6)
    for loader in (DataLoader(ROWS, 10, shuffle=True), DataLoader(ROWS, 10, drop_last=True)):
        with pytest.raises(
            InputError,
            match="expects a loader that neither shuffles nor skips rows, got one that does",
        ):
            vae.transform(loader)


def test_lagging_needs_rows_in_memory():
    with pytest.raises(InputError, match="strategy 'lagging' needs a validation split"):
        uc.VAE(**SMALL, strategy="lagging").fit(ROWS)
