"""What cannot be read in training is replaced by a draw of the sample's own, counted and listed."""

import logging
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.replacing import MOST, Replacing
from data_modules.sampling import mixed_order, replacement
from data_modules.video_data import ClipDataModule, ClipLoader

SAMPLES, BATCH, SEED = 24, 4, 7
GONE = frozenset({3, 10, 11})


class Numbers(Dataset[dict[str, Tensor]]):
    """(epoch, sample id) as a sample; some files are gone."""

    def __init__(self, gone: frozenset[int] = GONE) -> None:
        self.gone = gone

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        if key[1] in self.gone:
            raise FileNotFoundError(f"{key[1]}.avi: no such video")
        return {"key": torch.tensor(key)}


class Data(ClipDataModule):
    def __init__(self, on_error: str = "skip", workers: int = 0, place: tuple[int, int] = (0, 1)):
        super().__init__(BATCH, workers, SEED, on_error)
        self.place = place

    @property
    def ranks(self) -> tuple[int, int]:
        return self.place

    def train_dataloader(self) -> ClipLoader:
        order = partial(mixed_order, SEED, labelled=SAMPLES)
        return self.clip_loader(Numbers(), order)

    def val_dataloader(self) -> ClipLoader:
        return self.train_dataloader()


def seen(data: Data, epoch: int, after: int = 0) -> list[list[int]]:
    """Return the sample ids of an epoch's batches, from batch ``after`` on."""
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": epoch, "batches": after})
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches = [batch["key"].tolist() for batch in loader]
    assert all(found == epoch for batch in batches for found, _ in batch)
    return [[sample for _, sample in batch] for batch in batches]


def expected(sample: int, epoch: int) -> int:
    chosen, attempt = sample, 0
    while chosen in GONE:
        attempt += 1
        chosen = replacement(SEED, epoch, sample, attempt, range(SAMPLES))
    return chosen


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_others_stay_where_they_are_and_replacements_are_drawn(epoch: int) -> None:
    order = mixed_order(SEED, epoch, SAMPLES).tolist()
    found = [sample for batch in seen(Data(), epoch) for sample in batch]
    assert found == [expected(sample, epoch) for sample in order]
    assert not GONE & set(found)
    assert sum(a != b for a, b in zip(found, order, strict=True)) == len(GONE)


def test_epochs_and_attempts_draw_anew() -> None:
    pool = range(5, 1005)
    drawn = [replacement(SEED, e, s, a, pool) for e in range(4) for s in range(4) for a in (1, 2)]
    assert len(set(drawn)) > 28
    assert set(drawn) <= set(pool)
    assert drawn[0] == replacement(SEED, 0, 0, 1, pool)


def test_ranks_together_and_a_resumed_run_see_the_same() -> None:
    whole = seen(Data(), 1)
    halves = [seen(Data(place=(rank, 2)), 1) for rank in range(2)]
    for batch, one, two in zip(whole, *halves, strict=True):
        assert batch[::2] == one
        assert batch[1::2] == two
    assert seen(Data(), 1, after=2) == whole[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_replaced_is_said_once_counted_and_listed(caplog, workers: int) -> None:
    data = Data(workers=workers)
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert all(list(batch) == ["key"] for batch in loader)
    said = [record.message for record in caplog.records]
    assert len(said) == len(GONE)
    assert all("no such video: another sample in its place" in line for line in said)
    total = sum(data.unreadable.counts.values())
    assert total >= 2 * len(GONE)
    caplog.clear()
    data.teardown("fit")
    data.teardown("test")  # nothing is left to say
    [report] = [record.message for record in caplog.records]
    assert report.startswith(f"{total} samples could not be read and were replaced")
    assert sorted(line.split()[2] for line in report.splitlines()[1:]) == [
        "10.avi:",
        "11.avi:",
        "3.avi:",
    ]


def test_raise_ends_the_run_in_one_line() -> None:
    with pytest.raises(FileNotFoundError, match=r"^\d+\.avi: no such video$"):
        seen(Data("raise"), 0)
    with pytest.raises(ValueError, match=r"^data\.on_error=ignore: expected raise or skip$"):
        Data("ignore")


def test_what_never_can_be_read_is_no_matter_of_a_few_files(caplog) -> None:
    caplog.set_level(logging.WARNING)
    nothing = Replacing(Numbers(frozenset(range(SAMPLES))), [range(SAMPLES)], SEED)
    with pytest.raises(ValueError, match=rf"on_error=skip: a sample and {MOST} others .*\.avi: no"):
        nothing[0, 5]


def test_a_replacement_is_of_the_same_kind() -> None:
    """Labelled frames stand for labelled frames, stills for stills: their shares stay."""
    replacing = Replacing(Numbers(), [range(8), range(8, SAMPLES)], SEED)
    for epoch in range(20):
        assert int(replacing[epoch, 3].sample["key"][1]) < 8
        assert int(replacing[epoch, 10].sample["key"][1]) >= 8
