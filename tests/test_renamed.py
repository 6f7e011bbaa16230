"""A key that has another name now: one line where it is typed, translated in checkpoints."""

import pytest
import torch
from omegaconf import OmegaConf

from flowfeat import cli, overrides
from flowfeat.checkpoint import KEY, Provenance, read_checkpoint


def test_the_old_name_names_the_new_one():
    with pytest.raises(cli.UsageError) as refusal:
        cli.compose_config(["data.allow_missing=true"])
    expected = "data.allow_missing: is now data.on_error=raise, or skip for what was true"
    assert str(refusal.value) == expected
    with pytest.raises(cli.UsageError, match=r"is now data\.on_error"):
        overrides.apply_overrides(cli.compose_config([]), ["data.allow_missing=true"])


@pytest.mark.parametrize(("old", "new"), [(True, "skip"), (False, "raise")])
def test_older_checkpoints_are_understood(tmp_path, old, new):
    config = cli.compose_config([])
    OmegaConf.set_struct(config, False)
    del config.data.on_error
    config.data.allow_missing = old
    content = {"state_dict": {}, KEY: Provenance(config, ("a",)).record}
    torch.save(content, tmp_path / "old.ckpt")
    found = read_checkpoint(tmp_path / "old.ckpt").config.data
    assert found.on_error == new
    assert "allow_missing" not in found
