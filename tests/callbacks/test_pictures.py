"""Panels are saved for the right snippets and epochs, and never stand in the way of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from callbacks.pictures import Pictures, preview_panel
from flowfeat.pairs import PairEvaluation
from flowfeat.tasks.preview import Preview

SNIPPETS = [("val/a", 0), ("val/a", 4), ("val/a", 8), ("val/b", 0), ("val/b", 4), ("val/c", 0)]

FRAME, DRAWN = (200, 30, 90), (20, 160, 70)  # no greys: letters have them


def batches(labelled: int = 4) -> DataLoader[Any]:
    """Six chunks of four frames from three snippets."""
    chunks = [
        {
            "snippets": [name],
            "indices": torch.arange(first, first + 4)[None],
            "targets": torch.arange(labelled)[None],
        }
        for name, first in SNIPPETS
    ]
    return DataLoader(chunks, batch_size=None)  # type: ignore[arg-type]


class Task(pl.LightningModule):
    """Remembers which batches it was asked to show."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[tuple[str, int]] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def preview(self, batch: Any) -> Preview:
        assert not torch.is_grad_enabled()
        self.shown.append((batch["snippets"][0], int(batch["indices"][0, 0])))
        frame = torch.tensor(FRAME).div(255)[:, None, None].expand(3, 24, 32)
        picture = np.full((24, 32, 3), DRAWN, np.uint8)
        return Preview(frame, frame, torch.ones(2, 3, 4), picture, picture, batch["snippets"][0])


class ImageLogger(CSVLogger):
    """Remembers pictures as W&B's logger takes them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[dict[str, Any]] = []

    def log_image(self, key: str, images: list[Any], step: int | None, **kwargs: Any) -> None:
        self.calls.append({"key": key, "images": images, "step": step, **kwargs})


def trainer(folder: Path, callback: Pictures, logger: Any = False, **kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pictures").glob("*"))


def test_one_picture_for_each_of_the_first_snippets(tmp_path: Path) -> None:
    task = Task()
    trainer(tmp_path, Pictures(snippets=2)).test(task, batches(), verbose=False)
    assert task.shown == [("val/a", 0), ("val/b", 0)]
    assert saved(tmp_path) == ["test_0_val-a.png", "test_1_val-b.png"]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "test_0_val-a.png"))
    assert (picture == DRAWN).all(axis=2).sum() == 2 * (24 * 8) * (32 * 8)  # predicted and truth


def test_offset_picks_the_chunk_that_holds_the_frame(tmp_path: Path) -> None:
    task = Task()
    trainer(tmp_path, Pictures(snippets=2, offset=5)).validate(task, batches(), verbose=False)
    assert task.shown == [("val/a", 4), ("val/b", 4)]
    assert saved(tmp_path) == ["validation_0_val-a.png", "validation_1_val-b.png"]


def test_the_sanity_check_is_not_shown(tmp_path: Path) -> None:
    task = Task()
    run = trainer(tmp_path, Pictures(snippets=1), max_epochs=1, num_sanity_val_steps=2)
    run.fit(task, batches(), batches())
    assert task.shown == [("val/a", 0)]


def test_every_second_epoch_and_to_the_logger(tmp_path: Path) -> None:
    task, logger = Task(), ImageLogger(tmp_path)
    run = trainer(tmp_path, Pictures(every_n_epochs=2, snippets=1), logger, max_epochs=4)
    run.fit(task, batches(), batches())
    assert saved(tmp_path) == ["validation_0001_0_val-a.png", "validation_0003_0_val-a.png"]
    assert [call["step"] for call in logger.calls] == [12, 24]
    assert {call["key"] for call in logger.calls} == {"pictures/validation"}
    assert logger.calls[0]["caption"] == ["val/a"]
    on_disk = Image.open(tmp_path / "pictures" / "validation_0001_0_val-a.png")
    np.testing.assert_array_equal(logger.calls[0]["images"][0], np.asarray(on_disk))


def test_loggers_without_pictures_are_left_alone(tmp_path: Path) -> None:
    trainer(tmp_path, Pictures(), CSVLogger(tmp_path)).test(Task(), batches(), verbose=False)
    assert len(saved(tmp_path)) == 2


def test_other_processes_do_not_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task()
    run = trainer(tmp_path, Pictures())
    monkeypatch.setattr(type(run), "is_global_zero", property(lambda self: False))
    run.test(task, batches(), verbose=False)
    assert task.shown == []
    assert not (tmp_path / "pictures").exists()


def test_a_disk_that_refuses_costs_the_pictures_only(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("in the way")
    logger = ImageLogger(tmp_path)
    with pytest.warns(UserWarning, match="pictures were not saved in"):
        trainer(tmp_path, Pictures(), logger).test(Task(), batches(), verbose=False)
    assert len(logger.calls) == 1


def test_preview_without_flow_has_four_pictures() -> None:
    task = Task()
    with torch.no_grad():
        preview = task.preview({"snippets": ["a"], "indices": torch.zeros(1, 1)})
    with_flow, without = preview_panel(preview), preview_panel(preview._replace(displacement=None))
    assert with_flow.shape[1] > without.shape[1]
    for drawn in (with_flow, without):
        assert (drawn == DRAWN).all(axis=2).sum() == 2 * (24 * 8) * (32 * 8)
        assert (drawn == FRAME).all(axis=2).sum() == 2 * (24 * 8) * (32 * 8)


def test_chunks_without_a_label_and_pairs_are_not_shown(tmp_path: Path) -> None:
    task = Task()
    trainer(tmp_path, Pictures()).test(task, batches(labelled=0), verbose=False)
    assert task.shown == []

    class Pairs(PairEvaluation):
        def __init__(self) -> None:
            pl.LightningModule.__init__(self)

        def on_test_epoch_start(self) -> None:
            pass

        def test_step(self, batch: Any, batch_index: int) -> None:
            pass

        def on_test_epoch_end(self) -> None:
            pass

    trainer(tmp_path, Pictures()).test(Pairs(), batches(), verbose=False)
    assert not (tmp_path / "pictures").exists()


def test_a_task_without_preview_is_refused(tmp_path: Path) -> None:
    class Blind(pl.LightningModule):
        def test_step(self, batch: Any, index: int) -> None:
            pass

    with pytest.raises(ValueError, match="found Blind"):
        trainer(tmp_path, Pictures()).test(Blind(), batches(), verbose=False)


def test_bad_arguments_are_refused() -> None:
    for name in ("every_n_epochs", "snippets"):
        with pytest.raises(ValueError, match=f"{name} .* at least 1, found 0"):
            Pictures(**{name: 0})
    with pytest.raises(ValueError, match=r"offset .* at least 0, found -1"):
        Pictures(offset=-1)


def test_preview_without_another_frame_has_three_pictures_in_a_row() -> None:
    task = Task()
    with torch.no_grad():
        preview = task.preview({"snippets": ["a"], "indices": torch.zeros(1, 1)})
    drawn = preview_panel(preview._replace(key=None, displacement=None))
    assert (drawn == FRAME).all(axis=2).sum() == (24 * 8) * (32 * 8)
    assert (drawn == DRAWN).all(axis=2).sum() == 2 * (24 * 8) * (32 * 8)
    columns = (drawn == DRAWN).all(axis=2).any(axis=0).sum()
    assert columns == 2 * (32 * 8)


def test_which_predictions_are_drawn_stands_above_them() -> None:
    with torch.no_grad():
        preview = Task().preview({"snippets": ["a"], "indices": torch.zeros(1, 1)})
    plain = preview_panel(preview)
    said = preview_panel(preview._replace(predicted_caption="predicted, scores from 0.3"))
    rows, columns = np.nonzero((plain != said).any(axis=2))
    assert len(rows)
    assert (said == DRAWN).all(axis=2)[rows.max() + 10 :, columns.min()].any()  # right below
