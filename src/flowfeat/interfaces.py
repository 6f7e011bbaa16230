"""Every seam of flowfeat, with shapes and units; what the data modules deliver is in `batches`.

Flow is ``(dx, dy)`` in pixels of its own grid, from the current frame to the key frame.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

Features = tuple[Tensor, ...]
"""Levels in the module's declared order, each (B, C_l, h_l, w_l)."""


class Detections(NamedTuple):
    """Detections of one picture, in network pixels, best first."""

    boxes: Tensor  # (N, 4) xyxy, half-open
    scores: Tensor  # (N,) in 0..1
    labels: Tensor  # (N,) 0 .. num_classes - 1


class FeatureNetwork(nn.Module, ABC):
    """N_feat: frames (B, 3, H, W) RGB in [0, 1] -> feature maps, one per level.

    The network normalises the frames itself. Level ``l`` has ``channels[l]`` channels at
    ``ceil(H / strides[l])`` by ``ceil(W / strides[l])``, for any H and W. ``trunk`` is the part
    whose result is propagated; ``tail`` runs on every frame (the split point of Table 5).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    split: int | str = 1
    """Layers with weights in N_task (Table 5), or the block that it begins with; 1 is the head's
    own. With 0, the head's convolutions are to be ``append``ed."""

    @property
    def trunk_channels(self) -> tuple[int, ...]:
        """Channels per level of what ``trunk`` returns."""
        return self.channels

    @property
    def trunk_strides(self) -> tuple[int, ...]:
        """Strides per level of what ``trunk`` returns."""
        return self.strides

    @abstractmethod
    def trunk(self, frames: Tensor) -> Features:
        """Compute what propagation carries, from frames (B, 3, H, W)."""

    def shallow(self, frames: Tensor, stages: int) -> Tensor:
        """Run only the first ``stages`` of the trunk: maps (B, C, h, w), for clockwork.

        Raises:
            ValueError: A network that cannot stop there.
        """
        raise ValueError(f"{type(self).__name__} cannot run its first stages alone")

    def deepen(self, maps: Tensor, frames: Tensor, stages: int) -> Features:
        """Go on from ``shallow`` of the same frames and stages to what ``trunk`` returns."""
        raise ValueError(f"{type(self).__name__} cannot go on from its first stages")

    def append(self, maps: Callable[[Features], Features], channels: tuple[int, ...]) -> None:
        """Let the trunk end with a head's convolutions (split point 0): they become its levels.

        Args:
            maps: ``TaskHead.maps``; its weights stay the head's.
            channels: Of its maps, all on the last level's grid.

        Raises:
            ValueError: A network that cannot.
        """
        raise ValueError(f"features.split=0: {type(self).__name__} cannot end with the head")

    def tail(self, features: Features) -> Features:
        """Finish trunk features, fresh or propagated; the identity by default."""
        return features

    def forward(self, frames: Tensor) -> Features:
        """Return ``tail(trunk(frames))``."""
        return self.tail(self.trunk(frames))

    if TYPE_CHECKING:

        def __call__(self, frames: Tensor) -> Features: ...


class Flow(NamedTuple):
    """M and S of Eq. 3 on a feature grid."""

    displacement: Tensor  # (B, 2, h, w), (dx, dy) in pixels of this grid, current -> key
    scale: Tensor | None  # (B, C, h, w); None means all ones
    coarse: Tensor | None = None  # (B, C', h', w'), what the network knows about the pair


class FlowNetwork(nn.Module, ABC):
    """F and S: two frames (B, 3, H, W) RGB in [0, 1] -> flow on the feature grid.

    Built with the channels and strides of the trunk that it serves. With several levels, the flow
    is given on the finest one and ``scale`` holds the channels of all levels one after the other.
    """

    has_scale: bool = False
    """Whether ``forward`` gives a scale field."""

    coarse_channels: int = 0
    """Channels of ``Flow.coarse``, by which schedules learn; 0 where there is none."""
    reach: float | None = None
    """Pixels of ``pyramid``'s input beyond which no motion is seen, per axis; None: no limit."""

    @abstractmethod
    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Return displacements (B, 2, h, w), coarse to fine, at strides 64 .. 4, in input pixels.

        The frames are used at the size given, not halved: flow pre-training supervises this.
        """

    @abstractmethod
    def forward(self, current: Tensor, key: Tensor) -> Flow:
        """Return the flow on the feature grid, in feature pixels; halves its input itself."""

    if TYPE_CHECKING:

        def __call__(self, current: Tensor, key: Tensor) -> Flow: ...


class Motion(NamedTuple):
    """By what results are moved from key frames to current ones."""

    displacement: Tensor  # (B, 2, h, w), (dx, dy) in pixels of this grid, current -> key
    stride: int  # network pixels per pixel of this grid


class Output(NamedTuple):
    """What a temporal module hands to the head for one step (or for all targets, in training)."""

    features: Features
    frames: Tensor  # (B, 3, H, W), the frames these features belong to
    valid: Tensor  # (B, L) bool: level l of stream b carries a real result
    is_key: Tensor  # (B,) bool, on the CPU: N_feat ran on this very frame
    moved_by: Motion | None = None  # what the head gives is to be moved where ``is_key`` is false


class TemporalModule(nn.Module, ABC):
    """A method: decides on which frames N_feat runs, and what every frame's features are.

    ``step`` and ``forward`` are one function: ``forward`` on a clip equals unrolled ``step``s whose
    key frames are forced to ``is_key``. State is a dataclass of tensors with a batch axis, passed
    in and out, never kept on the module. ``starts`` and ``is_key`` live on the CPU, so that a fixed
    schedule never makes the host wait for the device.
    """

    delay: int = 0  # outputs belong to time t - delay
    channels: tuple[int, ...]  # of the features that the head receives
    strides: tuple[int, ...]
    key_frames: "KeyFrameScheduler | None" = None  # None: the method knows no key frames
    carries: Literal["features", "results"] = "features"
    """What other frames get from their key frame. With ``results``, the outputs of other frames
    hold their key frame and its features, so that the head need not run on them again."""

    @abstractmethod
    def step(self, frames: Tensor, starts: Tensor, state: Any | None) -> tuple[Output | None, Any]:
        """Advance B independent streams by one frame each.

        Args:
            frames: (B, 3, H, W), the next frame of every stream.
            starts: (B,) bool; a stream that starts forgets its past.
            state: What the last call returned; None at first, or after a change of resolution.

        Returns:
            The output for time t - delay (None while nothing is due) and the new state.
        """

    def flush(self, state: Any) -> tuple[Output, ...]:
        """Return the delayed rest: at the end of the streams, or before frames of another size."""
        return ()

    @abstractmethod
    def training_keys(self, indices: Tensor) -> Tensor:
        """Say which steps of a training clip are key frames: indices (B, T) -> (B, T) bool."""

    @abstractmethod
    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        """Run a clip (B, T, 3, H, W) with forced key frames; return the target steps only.

        Args:
            clip: (B, T, 3, H, W).
            is_key: (B, T) bool; step 0 must be a key frame where the method has key frames.
            targets: (B, S) steps.
            indices: (B, T) frame numbers in the videos; steps in a row with one number show the
                same picture, which is no pair and no neighbour, as in the stream. None: all differ.

        Returns:
            Output with a leading axis of B * S, entry ``b * S + s`` for target s of clip b.
        """

    def parts(self) -> dict[str, nn.Module]:
        """Name the trainable parts ("features", "flow", ...) for learning rates and freezing."""
        return dict(self.named_children())

    def controls(self) -> Mapping[str, "TemporalModule"]:
        """Return this method with parts of its propagation left out, sharing weights, by name.

        ``copy`` has zero flow and unit scale, ``no_flow`` zero flow, ``no_scale`` unit scale.
        """
        return {}

    def motion(self, current: Tensor, key: Tensor) -> Tensor | None:
        """Return the displacement (B, 2, h, w) current -> key, for pictures, if any."""
        return None

    def expected_agreement(self, current: Tensor, key: Tensor) -> Tensor:
        """Return logits (B,) of the agreement (0..1) that a learned schedule expects of pairs."""
        raise ValueError(f"{type(self).__name__} has no schedule that learns")

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        """Run explicit (key, target) pairs of one clip, as the paper evaluates (section 5.2).

        Args:
            clip: (B, T, 3, H, W).
            keys: (B, S) steps to propagate from, each at or before its target.
            targets: (B, S) steps.

        Raises:
            ValueError: A method without key frames.
        """
        raise ValueError(f"{type(self).__name__} has no key frames, so no (key, current) pairs")

    if TYPE_CHECKING:

        def __call__(
            self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
        ) -> Output: ...


class TaskHead(nn.Module, ABC):
    """N_task: features -> predictions of one step. Heads know nothing of time or of methods.

    ``forward`` holds the convolutions and returns raw maps; ``postprocess`` turns them into
    predictions (proposals, pooling, NMS, upsampling). Both count as N_task in Eq. 5. A head whose
    convolutions may run before the propagation (split point 0 of Table 5) offers them as ``maps``.
    """

    map_channels: tuple[int, ...] = ()  # of ``maps``
    gets_maps: bool = False  # the features that ``forward`` receives are its ``maps`` already

    def maps(self, features: Features) -> Features:
        """Run the convolutions alone: maps on the last level's grid.

        Raises:
            ValueError: A head without such a part.
        """
        raise ValueError(f"features.split=0: {type(self).__name__} has no convolutions to move")

    @abstractmethod
    def forward(self, features: Features, frames: Tensor) -> Any:
        """Return raw predictions for features of frames (B, 3, H, W)."""

    @abstractmethod
    def postprocess(self, raw: Any, sizes: Tensor) -> Any:
        """Turn raw predictions into final ones; sizes (B, 2): height and width of each picture."""

    @abstractmethod
    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        """Return named scalar losses, each the mean over images with a constant denominator."""


class AgreementNetwork(nn.Module, ABC):
    """Predicts how well propagated results will agree with recomputed ones, from a flow's pair."""

    @abstractmethod
    def forward(self, coarse: Tensor) -> Tensor:
        """Return logits (B,) of the agreement (0..1), from ``Flow.coarse``."""

    if TYPE_CHECKING:

        def __call__(self, coarse: Tensor) -> Tensor: ...


class KeyFrameScheduler(Protocol):
    """Decides per stream and step whether N_feat runs."""

    interval: int  # l: the longest a key frame serves, itself included

    def __call__(
        self, age: Tensor, frames: Tensor, keys: Tensor | None, flow: Flow | None
    ) -> Tensor:
        """Return (B,) bool on the CPU.

        Args:
            age: (B,) i64 on the CPU, frames since the stream's key frame (its next frame has 1);
                0 where the stream starts, which always is a key frame.
            frames: (B, 3, H, W), the current frames.
            keys: (B, 3, H, W), the key frames; None at the first step.
            flow: Flow current -> key where ``needs_flow`` is true, else None.

        With ``needs_flow``, only streams of an age of 1 .. interval - 1 are asked: the others have
        a key frame without a question.
        """

    def first_ages(self, tick: int, streams: int) -> Tensor:
        """Return the ages (B,) i64 of key frames that start streams at this tick, usually 0."""

    @property
    def needs_flow(self) -> bool:
        """Whether the flow must be computed before the decision."""

    @property
    def network(self) -> "AgreementNetwork | None":
        """What it learns, if anything; the method names it "schedule" among its parts."""
