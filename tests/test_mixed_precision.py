"""Every task with every method in mixed precision: autocast's own, and the rules of a GPU's.

Autocast follows other rules on a CPU than on a GPU, and fake CUDA tensors know none of them. So a
mode applies the GPU's lists, as torch documents them, to real tensors on the CPU.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from flowfeat.flow.flownet import FlowNet
from flowfeat.flow.flownet_inception import FlowNetInception
from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import Flow
from flowfeat.key_frames.learned import Learned
from flowfeat.tasks.video_task import VideoTask
from tests.test_build import HEIGHT, PAIRS, WIDTH, batch, leaves, made, tiny, video

TO_BFLOAT16 = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul "
    "__matmul__ __rmatmul__ mm mv bmm addmm addmv addr addbmm baddbmm einsum chain_matmul "
    "multi_dot vecdot prelu scaled_dot_product_attention"
)
"""Functions to which autocast gives bfloat16 on a GPU."""

TO_FLOAT32 = (
    "exp expm1 log log2 log10 log1p pow __pow__ __rpow__ reciprocal rsqrt acos asin cosh sinh tan "
    "erfinv softplus softmax log_softmax softmin cumsum cumprod prod sum norm vector_norm "
    "matrix_norm frobenius_norm nuclear_norm normalize renorm dist cdist pdist logsumexp "
    "layer_norm group_norm cosine_similarity interpolate grid_sample cross_entropy nll_loss "
    "mse_loss l1_loss smooth_l1_loss huber_loss kl_div binary_cross_entropy_with_logits "
    "cosine_embedding_loss hinge_embedding_loss margin_ranking_loss soft_margin_loss "
    "triplet_margin_loss"
)
"""Functions to which it gives float32, whatever comes in; ``interpolate`` is its upsampling."""


class CudaAutocast(TorchFunctionMode):
    """Inside autocast("cpu"), casts what functions get by the lists of autocast("cuda")."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        for names, kind in ((TO_BFLOAT16, torch.bfloat16), (TO_FLOAT32, torch.float32)):
            if name in names.split():
                args, kwargs = _cast((args, kwargs), kind)
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)


def _cast(values: Any, kind: torch.dtype) -> Any:
    halves = (torch.float32, torch.bfloat16)
    return tree_map_only(Tensor, lambda t: t.to(kind) if t.dtype in halves else t, values)


RULES: dict[str, type[AbstractContextManager[Any]]] = {"cpu": nullcontext, "cuda": CudaAutocast}
"""Whose lists are followed inside autocast."""


def halved(rules: str) -> AbstractContextManager[Any]:
    """Run what is inside in bfloat16 by the rules of a CPU or a GPU."""
    stack = ExitStack()
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    stack.enter_context(RULES[rules]())
    return stack


def losses(task: VideoTask, clips: Any) -> tuple[Tensor, dict[str, float]]:
    """Train a step up to its loss; return it, and what it consists of."""
    parts: dict[str, float] = {}
    task.log = lambda name, value, **_: parts.update({name: float(value)})  # type: ignore[method-assign, assignment]
    task._logs_now = lambda: True  # type: ignore[method-assign]
    return task.training_step(clips, 0), parts


def settled(parts: dict[str, float]) -> dict[str, float]:
    """Leave out the losses of proposals: another one is kept where two are nearly as good."""
    return {n: v for n, v in parts.items() if n != "loss" and not n.startswith("loss_detection")}


def _learns(task: VideoTask, loss: Tensor) -> set[str]:
    """Go backward; return the parts with a gradient, which must be finite."""
    if loss.requires_grad:
        loss.backward()
    found = set()
    for name, part in task.parts().items():
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in grads), name
        found |= {name} if any(g.any() for g in grads) else set()
    return found


@pytest.mark.parametrize(("task_name", "method"), PAIRS)
def test_every_pair_trains_and_streams_in_mixed_precision(task_name, method):
    config = tiny(task_name, method)
    task, clips = made(config).train(), batch(config)
    loss, parts = losses(task, clips)
    exact, learns = settled(parts), _learns(task, loss)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    for rules in RULES:
        task.train().zero_grad()
        with halved(rules):
            loss, parts = losses(task, clips)
        assert loss.isfinite(), rules
        assert settled(parts) == pytest.approx(exact, rel=0.02), rules
        assert _learns(task, loss) == learns, rules
        with halved(rules):
            stream, results = task.eval().stream(), []
            for t in range(3):  # the second video begins anew at step 1
                starts = torch.tensor([t == 0, t < 2])
                results += stream.push(video()[t : t + 2], starts, sizes, t)
            results += stream.finish()
        assert [result.tag for result in results] == [0, 1, 2], rules


@pytest.mark.parametrize("rules", RULES)
def test_flow_guided_aggregation_adds_up_in_float32(rules):
    """Nineteen equal frames: bfloat16 would lose what the later ones add to the sum."""
    config = tiny("vid", "fgfa")
    method = made(config).temporal.eval()
    method.flow = ZeroFlow(method.features.trunk_channels, method.features.trunk_strides)
    clip = video()[:1].expand(1, 19, -1, -1, -1)
    every, middle = torch.ones(1, 19, dtype=torch.bool), torch.tensor([[9]])
    with torch.no_grad(), halved(rules):
        features = method.features(clip[:, 0])[-1]
        output = method(clip, every, middle)
    assert output.features[-1].dtype == features.dtype
    torch.testing.assert_close(output.features[-1], features, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", [partial(FlowNet, width=1 / 16), FlowNetInception])
def test_displacements_keep_their_precision(rules, network):
    """A prediction of 40.1 cells everywhere, by its bias; bfloat16 knows 40 and 40.25."""
    torch.manual_seed(0)
    flow = network((8,), (16,)).eval()
    with torch.no_grad():
        flow.predict.weight.zero_()
        flow.predict.bias.fill_(40.1 / 2.5)
        for predict in flow.refinement.predicts:
            predict.weight.zero_()
            predict.bias.fill_(40.1 / 20)
    current, key = video()[:2].split(1)
    with torch.no_grad(), halved(rules):
        displacement = flow(current, key).displacement
        *coarser, finest = flow.pyramid(current, key)
    for found, truth in [(displacement, 40.1), (finest, 320.8), *((c, 40.1) for c in coarser)]:
        torch.testing.assert_close(found, torch.full_like(found, truth), rtol=1e-5, atol=0)
        assert found.dtype == torch.float32


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("flow", [name for name in leaves("flow") if name != "none"])
def test_every_flow_gives_positions_in_float32(rules, flow):
    config = tiny("vid", "dff", f"flow={flow}")
    if "updates" in config.flow:
        config.flow.updates = 2
    network = made(config).temporal.flow.eval()
    current, key = video()[:2].split(1)
    with torch.no_grad():
        exact = network(current, key).displacement
        with halved(rules):
            found = network(current, key).displacement
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("rules", RULES)
def test_key_frame_measures_are_float32(rules):
    """Two pairs whose agreement differs by less than bfloat16's step near 1, which is 1/256."""
    schedule = Learned(interval=9, threshold=0.0035, times_age=False, coarse_channels=4, width=4)
    agreement = schedule.network
    torch.nn.init.zeros_(agreement.votes[2].weight)
    age, frames = torch.tensor([1]), torch.zeros(1, 3, 8, 8)
    flow = Flow(torch.zeros(1, 2, 2, 2), None, torch.ones(1, 4, 2, 2))
    for logit, renewed in ((5.625, True), (5.6875, False)):  # of 0.9964 and 0.9966
        torch.nn.init.constant_(agreement.votes[2].bias, logit)
        with halved(rules):
            assert schedule(age, frames, frames, flow).item() == renewed


def test_the_gpu_rules_are_those_that_torch_documents():
    half, full = torch.bfloat16, torch.float32
    maps, weight = torch.rand(1, 2, 4, 4, dtype=half), torch.rand(2, 2, 1, 1)
    with halved("cuda"):
        for found, kind in (
            (F.conv2d(maps, weight), half),
            (weight[..., 0, 0] @ weight[..., 0, 0], half),
            (F.linear(maps, weight[..., 0, 0].repeat(2, 2)), half),
            (maps.softmax(1), full),
            (maps.exp(), full),
            (maps.norm(dim=1), full),
            (F.normalize(maps, dim=1), full),
            (F.cosine_similarity(maps, maps), full),
            (F.cross_entropy(maps, maps), full),
            (F.grid_sample(maps, torch.zeros(1, 2, 2, 2), align_corners=True), full),
            (F.interpolate(maps, size=(2, 2), mode="bilinear"), full),
            (maps + maps, half),
            (maps.mean(1), half),
        ):
            assert found.dtype == kind
        with torch.autocast("cpu", enabled=False):
            assert F.conv2d(maps.float(), weight).dtype == full
    assert maps.softmax(1).dtype == half
