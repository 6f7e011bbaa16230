"""Refuse a paper's training without the weights that the paper's own began with.

`pretrained_on` of an experiment says which parts those are, and on what they were trained.
"""

import logging

from omegaconf import DictConfig

from flowfeat.start_from import starts

log = logging.getLogger(__name__)

RECIPES = (
    "experiment=flying_chairs_flownet (flow=flownet), flying_chairs_flownet_half or "
    "flying_chairs_flownet_inception"
)
"""What trains F of Tables 6, 7 and 8 alone."""


def require_pretrained(config: DictConfig) -> None:
    """See that every part which a paper's training takes over has weights to begin with.

    A run that goes on from a checkpoint has them from there, and `allow_random=true` is to say that
    it shall do without. `warmup` is a pre-training of F, if another one.

    Args:
        config: As composed; `pretrained_on` may be missing or empty.

    Raises:
        ValueError: A part would begin with random weights; the line says where weights come from.
    """
    if config.get("resume") is not None:
        return
    if config.features.get("norm") == "frozen" and _lacking_features(config):
        log.warning("features.norm=frozen: statistics of random weights normalise nothing")
    if config.get("allow_random"):
        return
    wanted = config.get("pretrained_on") or {}
    checks = {"features": _lacking_features, "flow": _lacking_flow}
    for part, source in wanted.items():
        if part not in checks:
            raise ValueError(f"pretrained_on.{part}: expected one of {', '.join(checks)}")
        lacking = checks[part](config)
        if lacking is not None:
            key, remedy = lacking
            raise ValueError(
                f"{key}: the paper's training begins with weights of {source}, this one would with "
                f"random ones; expected {remedy}, or allow_random=true to go on without"
            )


def _lacking_features(config: DictConfig) -> tuple[str, str] | None:
    """Return the key that lacks N's weights and what to give; None where N has them."""
    node = config.features
    if not node or "pretrained" not in node or starts(config, "features"):
        return None
    if node.get("pretrained") or node.get("checkpoint_path"):
        return None
    if "model" in node:
        known = "features.pretrained=true (fetches timm's) or features.checkpoint_path=<file>"
        return "features.pretrained=false", known
    return "features.checkpoint_path=null", (
        "features.checkpoint_path=<BN-Inception's public weights for PyTorch, "
        "bn_inception-52deb4733.pth, of which copies are about> or "
        "start_from.features=<best.ckpt of a finished first stage>"
    )


def _lacking_flow(config: DictConfig) -> tuple[str, str] | None:
    """Return the key that lacks F's weights and what to give; None where F has or needs none."""
    node = config.flow
    if not node or "weights" not in node or starts(config, "flow"):
        return None
    if node.get("pretrained") or config.warmup:
        return None
    return "flow.weights=null", (
        f"flow.weights=<best.ckpt of {RECIPES}, or a file of public FlowNet-S weights>"
    )
