"""Keys that had another name: refused where they are typed, understood in older checkpoints."""

from omegaconf import DictConfig, OmegaConf

NOW = {"data.allow_missing": "data.on_error=raise, or skip for what was true"}
"""Old key -> what to type instead."""


def with_todays_names(config: DictConfig) -> DictConfig:
    """Return a stored config with the keys of today."""
    old = OmegaConf.select(config, "data.allow_missing")
    if old is None:
        return config
    config = config.copy()
    OmegaConf.set_struct(config, False)
    del config.data.allow_missing
    config.data.on_error = "skip" if old else "raise"
    return config
