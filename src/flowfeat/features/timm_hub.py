"""Networks that a model hub or a folder describes (`hf-hub:...`), as names of timm's own."""

from typing import Any, NamedTuple

import timm

SHAPING = (
    *("architecture", "input_size", "fixed_input_size", "mean", "std", "num_classes"),
    *("pool_size", "first_conv", "classifier"),
)
"""What of timm's `pretrained_cfg` shapes a network and its input; the rest says where weights are,
and how others prepare pictures."""


class Architecture(NamedTuple):
    """A network as timm builds it without asking anybody."""

    model: str  # of timm's own registry
    arguments: dict[str, Any]  # for timm.create_model
    pretrained_cfg: dict[str, Any]  # where its weights are, and the input that they want

    def stored(self) -> dict[str, Any]:
        """Return it in plain values, without places to fetch anything from."""
        shaping = {k: self.pretrained_cfg[k] for k in SHAPING if k in self.pretrained_cfg}
        # What timm calls pretrained_model_args is said twice, and is about the weights alone.
        own = {k: v for k, v in self.arguments.items() if k != "pretrained_model_args"}
        return {"model": self.model, **own, "pretrained_cfg": shaping}


def reaches_out(model: str) -> bool:
    """Say whether a name is none of timm's own, but a hub's, an address or a path."""
    return any(sign in model for sign in ":/\\")


def look_up(model: str) -> Architecture:
    """Ask the hub or read the folder that a name gives.

    Raises:
        FileNotFoundError: It cannot be had.
        ValueError: It describes no model of timm.
    """
    try:
        found = timm.models.resolve_model_input_args(model)
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise FileNotFoundError(f"features.model={model}: cannot be had ({reason})") from error
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"features.model={model}: {reason}") from error
    arguments = {k: v for k, v in found.items() if k not in ("model_name", "pretrained_cfg")}
    return Architecture(found["model_name"], arguments, found["pretrained_cfg"])
