"""What is recorded once per size and replayed, with a stand-in that records on the CPU."""

import pytest
import torch
from torch import Tensor

from flowfeat.cuda_graphs import MOST, Graphed, Recording, copied, tensors
from flowfeat.interfaces import Flow


class Recorder:
    """Replays by running the function again, into the outputs of the first run, as a graph does."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function, inputs) -> Recording:
        self.recorded += 1
        own = copied(inputs)
        outputs = function(*own)

        def replay() -> None:
            for fixed, new in zip(tensors(outputs), tensors(function(*own)), strict=True):
                fixed.copy_(new)

        return Recording(own, outputs, replay)


def flow(current: Tensor, key: Tensor) -> Flow:
    return Flow(current - key, None, current + key)


def test_results_are_the_functions_and_stay_when_it_is_called_again() -> None:
    graphed = Graphed(flow, Recorder())
    pairs = [(torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 4)) for _ in range(3)]
    found = [graphed(*pair) for pair in pairs]
    assert graphed.record.recorded == 1
    for pair, result in zip(pairs, found, strict=True):
        assert isinstance(result, Flow)
        assert torch.equal(result.displacement, pair[0] - pair[1])
        assert torch.equal(result.coarse, pair[0] + pair[1])
        assert result.scale is None


def test_inputs_are_copied_in_and_never_written_to() -> None:
    graphed = Graphed(lambda levels, frames: [levels[0] + 1, levels[1] * frames], Recorder())
    levels, frames = (torch.rand(2, 3), torch.rand(2)), torch.rand(2)
    before = copied((levels, frames))
    for _ in range(2):
        found = graphed(levels, frames)
    assert torch.equal(found[0], before[0][0] + 1)
    assert torch.equal(found[1], before[0][1] * before[1])
    assert all(map(torch.equal, tensors((levels, frames)), tensors(before)))


def test_every_size_type_and_mode_has_a_recording_of_its_own() -> None:
    graphed = Graphed(lambda maps: (maps * 2,), Recorder())
    one = torch.rand(1, 3, 4, 4)
    kinds = [one, torch.rand(2, 3, 4, 4), one.double(), one.to(memory_format=torch.channels_last)]
    for _ in range(2):
        for maps in kinds:
            assert torch.equal(graphed(maps)[0], maps * 2)
    assert graphed.record.recorded == len(kinds)
    with torch.inference_mode():
        graphed(one)
    assert graphed.record.recorded == len(kinds) + 1


def test_further_sizes_run_without() -> None:
    graphed = Graphed(lambda maps: maps + 1, Recorder())
    for size in range(1, MOST + 5):
        assert torch.equal(graphed(torch.zeros(size)), torch.ones(size))
    assert graphed.record.recorded == MOST


@torch.no_grad()
def test_weights_that_were_moved_are_read_where_they_lie_now() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).eval()
    graphed = Graphed(network.forward, Recorder(), network)
    frames = torch.rand(1, 3, 4, 4)
    for _ in range(2):
        graphed(frames)
    assert graphed.record.recorded == 1
    # As a trainer does between two tests; on one device with another type in between.
    network.double().float()
    for _ in range(2):
        assert torch.equal(graphed(frames), network(frames))
    assert graphed.record.recorded == 2
    network[1].running_mean = torch.ones(4)  # a buffer alone
    assert torch.equal(graphed(frames), network(frames))
    assert graphed.record.recorded == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_graph_follows_weights_to_the_cpu_and_back() -> None:
    network = torch.nn.Conv2d(3, 4, 3).cuda().eval()
    graphed = Graphed(network.forward, module=network)
    frames = torch.rand(1, 3, 16, 16, device="cuda")
    with torch.inference_mode():
        expected = graphed(frames)
    network.cpu()
    other = torch.zeros(2**20, device="cuda")  # where the weights were
    network.cuda()
    with torch.inference_mode():
        assert torch.equal(graphed(frames), expected)
    assert not other.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_graph_gives_the_same_bits() -> None:
    network = torch.nn.Conv2d(3, 4, 3).cuda().eval()
    graphed = Graphed(network)
    with torch.inference_mode():
        for _ in range(3):
            frames = torch.rand(1, 3, 16, 16, device="cuda")
            assert torch.equal(graphed(frames), network(frames))
