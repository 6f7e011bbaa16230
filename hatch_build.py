"""Put configs/ into the wheel: a run is composed of them, and they list the code that may run."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Configs(BuildHookInterface):  # type: ignore[type-arg]
    """An editable install has none of its own, which would go stale: it reads the checkout's."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder to what is built."""
        if version == "standard":
            build_data["force_include"]["configs"] = "flowfeat/configs"
