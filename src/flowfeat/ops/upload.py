"""Small tensors of the host's on their way to a device, for which nobody waits."""

import torch
from torch import Tensor


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device without a wait for what the device still has to do.

    ``Tensor.to`` waits for the device: on a GPU only a copy from pinned memory may come later.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
