"""RAFT begins with torchvision's weights, fetched by name or read from its file."""

from urllib.error import URLError

import pytest
import torch
from torchvision.models.optical_flow import raft_large, raft_small

from flowfeat import cli
from flowfeat.build import build_task
from flowfeat.flow.torchvision_flow import RAFT
from flowfeat.start_from import start_parts

WORDS = ["method=dff", "features=resnet18", "features.model=test_resnet", "flow=raft_small"]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which weights would be fetched, and give random ones."""
    names: list[str] = []

    def state(weights, **_):  # torchvision's own method of its enumeration
        names.append(str(weights))
        torch.manual_seed(7)
        return raft_small().state_dict()

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", state)
    return names


def test_true_means_chairs_and_things(fetched):
    torch.manual_seed(7)
    expected = raft_small().state_dict()
    config = cli.compose_config([*WORDS, "flow.pretrained=true"])
    network = build_task(config, ("a",)).temporal.flow.network
    assert fetched == ["Raft_Small_Weights.C_T_V2"]
    assert all(torch.equal(value, expected[n]) for n, value in network.state_dict().items())
    RAFT((1,), (8,), pretrained="C_T_V1")
    assert fetched[1:] == ["Raft_Small_Weights.C_T_V1"]
    RAFT((1,), (8,))
    assert len(fetched) == 2


def test_without_a_network_one_line_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", unreachable)
    said = r"^flow\.pretrained=True: cannot be fetched .*flow\.weights=<the file raft_small_C_T_V2"
    with pytest.raises(FileNotFoundError, match=said) as refusal:
        RAFT((1,), (8,), pretrained=True)
    assert "\n" not in str(refusal.value)


def test_a_file_of_torchvision_is_read(tmp_path):
    file = tmp_path / "raft_small_C_T_V2-01064c6d.pth"
    theirs = raft_small()
    torch.save(theirs.state_dict(), file)
    config = cli.compose_config([*WORDS, f"flow.weights={file}"])
    task = build_task(config, ("a",))
    start_parts(task, config)
    ours = task.temporal.flow.network.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("flow", ["raft_small", "correlation"])
def test_a_file_of_another_model_is_refused(tmp_path, flow):
    file = tmp_path / "raft.pth"
    torch.save(raft_large().state_dict(), file)
    config = cli.compose_config([*WORDS[:-1], f"flow={flow}", f"flow.weights={file}"])
    with pytest.raises(ValueError, match=r"flow\.weights: .*raft\.pth does not fit"):
        start_parts(build_task(config, ("a",)), config)
