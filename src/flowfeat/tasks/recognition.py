"""Action recognition: steps are scored one by one, and their mean over time is the clip's score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from flowfeat.batches import RecognitionBatch
from flowfeat.draws import seeded
from flowfeat.heads.recognition import Clips, Recognition, level_weights
from flowfeat.interfaces import Output, TemporalModule
from flowfeat.optimization import Optimization
from flowfeat.scores import Collected, Crops, VideoScores, consensus, figures, write_scores
from flowfeat.streaming import steps_of
from flowfeat.tasks.video_task import VideoTask


class RecognitionTask(VideoTask):
    """Trains any temporal module with a recognition head, on clips of one action each.

    The scores of a clip are averaged before the softmax over its steps that are ``valid`` and no
    repetitions; loss and figures are those of the average. Validation and test run whole clips, B
    at a time; entries of one ``snippet`` are crops of one video.

    Reports, over the videos of all processes, ``accuracy``, ``top5`` and ``mean_class_accuracy`` of
    the levels' weighted sum, with several levels also ``accuracy_features`` (level 0 alone) and
    ``accuracy_off`` (the sum without it); a test leaves ``scores.npz`` in its folder. What the
    speed monitor calls frames are segments: the steps of a clip.

    Args:
        temporal: The method.
        head: N_task.
        classes: Names of the actions.
        optimization: How the parts are trained.
        score_weights: Of the levels in a video's score; None: 1 for the feature network and 1 for
            the last level (section 4.3).
        crops: ``mean`` over crops, or ``max`` per step, as the released code tests.

    Raises:
        ValueError: Weights that do not fit the levels, or an unknown way to combine crops.
    """

    monitor = "accuracy"
    head: Recognition

    def __init__(
        self,
        temporal: TemporalModule,
        head: Recognition,
        classes: tuple[str, ...],
        optimization: Optimization,
        score_weights: Sequence[float] | None = None,
        crops: Crops = "mean",
    ) -> None:
        if crops not in ("mean", "max"):
            raise ValueError(f"module.crops={crops}: expected mean or max")
        super().__init__(temporal, head, classes, optimization)
        levels = len(head.levels)
        ends = tuple(float(level in (0, levels - 1)) for level in range(levels))
        self.score_weights = level_weights(score_weights, levels, "module.score_weights", ends)
        self.crops: Crops = crops
        self.metrics = nn.ModuleDict()  # figures come from all scores at once; see _figures
        self._collected = Collected(crops)
        self._computed: dict[str, float] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Name the classifier of the feature network "head", the other levels' "motion_head".

        So a run on the feature network alone has the same "head", whatever levels come on top.
        """
        parts = {**self.temporal.parts(), "head": self.head.classifier}
        return parts | ({"motion_head": self.head.motion} if len(self.head.motion) else {})

    def labels(self, batch: RecognitionBatch) -> Tensor:
        return batch["actions"]

    def truth(self, batch: Any, step: int) -> NoReturn:
        raise ValueError("evaluation.pairs_every: recognition scores whole clips, expected 0")

    def score(self, predictions: Any, truth: Any) -> NoReturn:
        raise ValueError("evaluation.pairs_every: recognition scores whole clips, expected 0")

    def training_step(self, batch: RecognitionBatch, batch_index: int) -> Tensor:
        with seeded(batch["seeds"]):  # for what a method drops
            return super().training_step(batch, batch_index)

    def losses(self, output: Output, batch: RecognitionBatch) -> dict[str, Tensor]:
        """Return one loss per level that learns, of the clips' average scores."""
        pooled = self.head.pool(output.features)
        if self.training:
            pooled = self.head.drop(pooled, batch["seeds"])
        raw = self.head.scores(pooled)
        targets = batch["targets"]
        shape = targets.shape
        counts = self._valid(output).unflatten(0, shape)  # (B, S, L)
        # Targets stay on the CPU; the repeats are where the frames are.
        repeated = batch["repeats"].gather(1, targets.to(batch["repeats"].device))
        counts = counts & ~repeated[..., None]
        averaged = [
            consensus(scores.unflatten(0, shape)[:, :, None], counts[..., level, None])[0][:, 0]
            for level, scores in enumerate(raw)
        ]
        return self.head.loss(averaged, Clips(self.labels(batch), counts.any(1)))

    def on_validation_epoch_start(self) -> None:
        self._collected = Collected(self.crops)
        self.key_share.reset()

    def validation_step(self, batch: RecognitionBatch, batch_index: int) -> None:
        steps, valid = self.score_steps(batch)  # (B, T, L, C), (B, T, L)
        counts = valid & ~batch["repeats"][..., None]
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(batch["snippets"]):
            rows.setdefault(name, []).append(row)
        merged = [
            steps[own].amax(0) if self.crops == "max" else steps[own].mean(0)
            for own in rows.values()
        ]
        first = [own[0] for own in rows.values()]
        scores, known = consensus(torch.stack(merged), counts[first])
        scores = scores.masked_fill(~known[..., None], torch.nan).cpu()
        actions = batch["actions"][first].tolist()
        for (name, own), action, video in zip(rows.items(), actions, scores, strict=True):
            self._collected.add(name, action, video, len(own))

    def on_validation_epoch_end(self) -> None:
        videos = self._collected.gathered(self.classes, self.score_weights)
        self._collected = Collected(self.crops)
        self._computed = self._figures(videos)
        for name, value in self._computed.items():
            self.log(name, value, prog_bar=name == self.monitor, sync_dist=False)
        if self.temporal.key_frames is not None:
            self.log("key_share", self.key_share.compute(), sync_dist=False)
        if self.trainer.testing and self.trainer.is_global_zero and videos.names:
            write_scores(videos, Path(self.trainer.default_root_dir) / "scores.npz")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def is_score(self, name: str) -> bool:
        return name in ("top5", "mean_class_accuracy") or name.startswith("accuracy")

    def computed_metrics(self) -> dict[str, Tensor]:
        """Return the figures of the last evaluation."""
        return {name: torch.tensor(value) for name, value in self._computed.items()}

    def _figures(self, videos: VideoScores) -> dict[str, float]:
        if not videos.names:
            return {}
        found = figures(videos.fused(), videos.labels)
        if len(self.score_weights) > 1:
            off = (0.0, *self.score_weights[1:])
            if not any(off):  # asked for nothing of it: its last level
                off = (*off[:-1], 1.0)
            features = (1.0, *(0.0 for _ in off[1:]))
            for name, weights in (("accuracy_features", features), ("accuracy_off", off)):
                found[name] = figures(videos.fused(weights), videos.labels)["accuracy"]
        return found

    @torch.no_grad()
    def score_steps(self, batch: RecognitionBatch) -> tuple[Tensor, Tensor]:
        """Run whole clips: scores (B, T, L, C) and validity (B, T, L) of every step."""
        frames = batch["frames"]
        shape = frames.shape[:2]
        if self.temporal.key_frames is None:
            # One call for all steps is the same as step after step, but faster.
            targets = torch.arange(shape[1]).expand(shape)
            is_key = self.temporal.training_keys(batch["indices"])
            output = self.temporal(frames, is_key, targets, batch["indices"])
            raw = torch.stack(self.head(output.features, output.frames), dim=1)
            return raw.float().unflatten(0, shape), self._valid(output).unflatten(0, shape)
        outputs: list[Output] = []
        state: Any | None = None
        for _, step, starts in steps_of(frames, torch.ones(len(frames), dtype=torch.bool)):
            output_or_none, state = self.temporal.step(step, starts, state)
            outputs += [] if output_or_none is None else [output_or_none]
        outputs += self.temporal.flush(state)
        for output in outputs:
            self.key_share.update(float(output.is_key.float().mean()), len(output.is_key))
        scored = [torch.stack(self.head(o.features, o.frames), dim=1) for o in outputs]
        valid = [self._valid(output) for output in outputs]
        return torch.stack(scored, dim=1).float(), torch.stack(valid, dim=1)

    def _valid(self, output: Output) -> Tensor:
        """Return the validity (B, L) of the levels that are scored."""
        return output.valid[:, list(self.head.levels)]
