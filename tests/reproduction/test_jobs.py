"""What makes a run of a table run again."""

from flowfeat.reproduction.jobs import changed


def test_devices_and_saving_change_no_figure() -> None:
    before = {"trainer.devices": "auto", "trainer.max_steps": 3, "optim.lr": 0.1}
    now = {"trainer.devices": 1, "trainer.max_steps": 4, "callbacks.checkpoints.every_n_steps": 9}
    assert changed(before, now, []) == ["optim.lr", "trainer.max_steps"]
