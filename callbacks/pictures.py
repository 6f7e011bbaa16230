"""Save pictures of what the network sees: key and current frame, flow, predictions and truth."""

import re
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from flowfeat.drawing import Picture, flow_picture, panel, picture_of
from flowfeat.pairs import PairEvaluation
from flowfeat.tasks.preview import Preview, Previewing


class Pictures(pl.Callback):
    """Save one panel for each of the first snippets of an evaluation, and hand it to the loggers.

    Panels go to ``<default_root_dir>/pictures/<stage>_<epoch>_<number>_<snippet>.png`` (no epoch
    outside training), and to every logger with a ``log_image`` (W&B has one). Only the first
    process draws, and only the first loader is shown.

    Args:
        every_n_epochs: Epochs of training between two sets of pictures of the validation; a
            validation outside training and a test are always shown.
        snippets: Number of snippets shown: the first ones that the loader delivers.
        offset: Frame number that the batch must reach to be picked, so that the current frame may
            lie some frames after the snippet's first key frame. Snippets that are too short, or
            of which the loader delivers no such frame, are passed over, and so are batches without
            a labelled frame.

    Raises:
        ValueError: A number below its least value (1, 1, 0), or a task without ``preview``.
    """

    def __init__(self, every_n_epochs: int = 1, snippets: int = 2, offset: int = 0) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("snippets", snippets, 1),
            ("offset", offset, 0),
        ):
            if value < least:
                raise ValueError(f"{name} of the pictures must be at least {least}, found {value}")
        self.every_n_epochs = every_n_epochs
        self.snippets = snippets
        self.offset = offset
        self._panels: dict[str, tuple[Picture, str]] = {}  # of the running evaluation, by snippet

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a task that has nothing to show before any time is spent."""
        if not isinstance(pl_module, (Previewing, PairEvaluation)):
            raise ValueError(
                f"pictures need a task with preview(batch), found {type(pl_module).__name__}; "
                "leave the callback out for this task"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new set."""
        self._panels = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new set."""
        self._panels = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the batch if it is the one of its snippet and this epoch has its turn."""
        training = trainer.state.fn == TrainerFn.FITTING
        due = not training or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and not trainer.sanity_checking and dataloader_idx == 0:
            self._draw(trainer, pl_module, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the batch if it is the one of its snippet."""
        if dataloader_idx == 0:
            self._draw(trainer, pl_module, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was drawn."""
        epoch = f"_{trainer.current_epoch:04d}" if trainer.state.fn == TrainerFn.FITTING else ""
        self._save(trainer, "validation", epoch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was drawn."""
        self._save(trainer, "test", "")

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        """Draw the batch unless its snippet was drawn, it comes too early or there are enough."""
        if not trainer.is_global_zero or len(self._panels) >= self.snippets:
            return
        if isinstance(pl_module, PairEvaluation):  # of a task whose streams are shown
            return
        snippet = batch["snippets"][0]
        if not batch["targets"].shape[1]:  # nothing is labelled here
            return
        if snippet in self._panels or int(batch["indices"][0].max()) < self.offset:
            return
        with torch.no_grad():
            preview = cast(Previewing, pl_module).preview(batch)
        self._panels[snippet] = (preview_panel(preview), preview.caption)

    def _save(self, trainer: pl.Trainer, stage: str, epoch: str) -> None:
        """Write the panels and log them; a full disk costs the pictures, not the run."""
        if not self._panels:
            return
        folder = Path(trainer.default_root_dir) / "pictures"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number, (snippet, (picture, _)) in enumerate(self._panels.items()):
                name = re.sub(r"[^\w.-]+", "-", snippet)
                path = folder / f"{stage}{epoch}_{number}_{name}.png"
                Image.fromarray(picture).save(path)
        except OSError as error:
            rank_zero_warn(f"pictures were not saved in {folder}: {error}")
        pictures = [picture for picture, _ in self._panels.values()]
        captions = [caption for _, caption in self._panels.values()]
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(
                    key=f"pictures/{stage}",
                    images=pictures,
                    step=trainer.global_step,
                    caption=captions,
                )
        self._panels = {}


def preview_panel(preview: Preview) -> Picture:
    """Lay a preview out: key and current frame and flow above, predictions and truth below."""
    pictures, captions = [picture_of(preview.current)], ["current frame"]
    if preview.key is not None:
        pictures.insert(0, picture_of(preview.key))
        captions.insert(0, "key frame")
    if preview.displacement is not None:
        height, width = preview.predicted.shape[:2]  # magnified by the task where frames are small
        pictures.append(flow_picture(preview.displacement, (height, width), wheel=True))
        captions.append("flow, current to key")
    pictures += [preview.predicted, preview.truth]
    captions += [preview.predicted_caption, "truth"]
    columns = 2 if len(pictures) == 4 else 3
    return panel(pictures, captions, preview.caption, columns)
