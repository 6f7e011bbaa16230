"""Time operations of ours beside the peer's own call for the same work, in turns."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import ps_roi_pool

from flowfeat.flow.opencv_flow import DIS
from flowfeat.ops.position_sensitive import position_sensitive_vote
from flowfeat.ops.warp import warp
from flowfeat.speed import seconds_of
from flowfeat.tasks.segmentation import resize_labels

STRIDE = 16  # pixels per cell of the maps
CHANNELS = 256  # of the map that is warped
BINS, CLASSES, ROIS = 7, 31, 300  # of R-FCN on ImageNet VID

Pair = tuple[Callable[[], object], Callable[[], object]]
"""Our call, and the peer's."""


def peer_figures(size: tuple[int, int], turns: int, device: torch.device) -> dict[str, float]:
    """Time our operations beside torchvision's, PyTorch's and OpenCV's, at one size of frames.

    Args:
        size: Height, width of the frames; maps have one cell for every 16 x 16 pixels.
        turns: How often each pair runs, behind one that warms up.
        device: Where maps lie; OpenCV's work is on the CPU.

    Returns:
        ``peers/<ours>_over_<theirs>``, medians of our time over the peer's in the same turn: below
        1, ours is faster. ``_training`` is forward and backward.
    """
    cells = (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
    cpu = torch.device("cpu")
    pairs = {
        "votes_over_ps_roi_pool": (_votes(cells, False, device), device),
        "votes_over_ps_roi_pool_training": (_votes(cells, True, device), device),
        "warp_over_grid_sample": (_warps(cells, False, device), device),
        "warp_over_grid_sample_training": (_warps(cells, True, device), device),
        "dis_over_opencv": (_dis(size), cpu),
        "resize_labels_over_opencv": (_labels(size), cpu),
    }
    return {f"peers/{name}": ratio(pair, turns, where) for name, (pair, where) in pairs.items()}


def reading_beside_pyav(data: Any, path: str, frames: int, turns: int) -> dict[str, float]:
    """Time the data module's reader beside PyAV's bare decoding to RGB, both from opening on.

    One converter serves all frames: ``frame.to_ndarray(format="rgb24")`` makes one for each, with
    threads of its own, and takes several times as long.

    Args:
        data: A data module that opens videos.
        path: A video file; a folder of frames has no peer.
        frames: At most so many, from the first on.
        turns: How often each runs, behind one that warms up.

    Returns:
        ``peers/read_over_pyav``; nothing for a folder.
    """
    if Path(path).is_dir():
        return {}
    indices = range(min(frames, len(data.open(path))))

    def decode() -> None:
        convert = VideoReformatter()
        with av.open(path) as container:
            for _, frame in zip(indices, container.decode(video=0), strict=False):
                convert.reformat(frame, format="rgb24", threads=1).to_ndarray()

    pair = (lambda: data.open(path).read(indices), decode)
    return {"peers/read_over_pyav": ratio(pair, turns, torch.device("cpu"))}


def ratio(pair: Pair, turns: int, device: torch.device) -> float:
    """Return the median of our seconds over the peer's, both of the same turn."""
    ours, theirs = pair
    taken = [(seconds_of(ours, device), seconds_of(theirs, device)) for _ in range(turns + 1)]
    return statistics.median(one / other for one, other in taken[1:])  # the first one warms up


def _votes(cells: tuple[int, int], training: bool, device: torch.device) -> Pair:
    """Return the votes of RoIs, by torchvision on a map whose last row and column it may leave."""
    maps = torch.rand(1, BINS * BINS * CLASSES, *cells, device=device)
    padded = F.pad(maps, (0, 1, 0, 1))
    ends = torch.tensor([cells[1], cells[0]], device=device) * STRIDE
    corners = torch.rand(ROIS, 2, 2, device=device) * ends
    rois = torch.cat((corners.amin(1), corners.amax(1)), 1)
    owners = torch.zeros(ROIS, dtype=torch.long, device=device)
    entries = torch.cat((owners[:, None].to(rois), rois), 1)

    def ours(maps: Tensor) -> Tensor:
        return position_sensitive_vote(maps, rois, owners, BINS, STRIDE)

    def theirs(maps: Tensor) -> Tensor:
        pooled: Tensor = ps_roi_pool(maps, entries, BINS, 1 / STRIDE)
        return pooled.mean((2, 3))

    return _run(ours, maps, training), _run(theirs, padded, training)


def _warps(cells: tuple[int, int], training: bool, device: torch.device) -> Pair:
    """Return W, and grid_sample where the positions are brought to -1..1 for it."""
    maps = torch.rand(1, CHANNELS, *cells, device=device)
    flow = torch.randn(1, 2, *cells, device=device)
    y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in cells), indexing="ij")
    last = torch.tensor([cells[1] - 1, cells[0] - 1], device=device).clamp_min(1)

    def theirs(maps: Tensor) -> Tensor:
        places = torch.stack((x + flow[:, 0], y + flow[:, 1]), -1)  # (1, h, w, 2)
        return F.grid_sample(maps, 2 * places / last - 1, align_corners=True)

    return _run(lambda maps: warp(maps, flow), maps, training), _run(theirs, maps, training)


def _run(function: Callable[[Tensor], Tensor], maps: Tensor, training: bool) -> Callable[[], None]:
    """Return a call of a function of maps: without gradients, or forward and backward."""

    def learn() -> None:
        given = maps.detach().requires_grad_()
        torch.autograd.grad(function(given).sum(), given)

    def infer() -> None:
        with torch.inference_mode():
            function(maps)

    return learn if training else infer


def _dis(size: tuple[int, int]) -> Pair:
    """Return DIS from frames to the feature grid, and OpenCV's call on the same luminances."""
    key = F.interpolate(torch.rand(1, 3, 8, 8), size=size, mode="bilinear", align_corners=False)
    network = DIS((CHANNELS,), (STRIDE,))
    gray, key_gray = (
        cv2.cvtColor((frame[0] * 255).byte().permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
        for frame in (key.roll(2, 3), key)
    )

    def ours() -> None:
        with torch.inference_mode():
            network(key.roll(2, 3), key)  # a new current frame in each call, as in a stream

    def theirs() -> None:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.calc(gray, key_gray, None)  # type: ignore[call-overload]

    return ours, theirs


def _labels(size: tuple[int, int]) -> Pair:
    """Return label maps of half the size brought to the whole one."""
    half = torch.randint(19, (-(-size[0] // 2), -(-size[1] // 2)), dtype=torch.uint8)
    labels = half.numpy()

    def theirs() -> None:
        cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)

    return lambda: resize_labels(half, size), theirs
