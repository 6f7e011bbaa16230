"""A word where a number is wanted is refused by its key, wherever the argument is declared."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flowfeat.argument_kinds import check_arguments, check_values
from flowfeat.cli import compose_config
from flowfeat.trust import build

VIMEO = ["task=vimeo90k", "method=off"]


@pytest.mark.parametrize(
    ("group", "word", "said"),
    [
        ("data", "data.quality=abc", "data.quality=abc: expected a whole number"),
        ("data", "data.quality=20.5", "data.quality=20.5: expected a whole number"),
        ("data", "data.quality=null", "data.quality=null: expected a whole number"),
        ("data", "data.batch_size=x", "data.batch_size=x: expected a whole number"),  # of a base
        ("data", "data.val_limit=x", "data.val_limit=x: expected a whole number or null"),
        ("data", "data.on_error=7", "data.on_error=7: expected text"),
        ("data", "data.codec=264", "data.codec=264: expected text"),
        ("data", "data.root=7", "data.root=7: expected text or null"),
        ("head", "head.residual_gain=x", "head.residual_gain=x: expected a number"),
        ("temporal", "temporal.frames=true", "temporal.frames=true: expected a whole number"),
        (
            "temporal",
            "temporal.layer.reduce_to=x",
            "temporal.layer.reduce_to=x: expected a whole number",
        ),
    ],
)
def test_a_value_of_another_kind_is_named(group: str, word: str, said: str) -> None:
    config = compose_config([*VIMEO, word])
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        build(config[group], group)


def test_lists_are_lists_of_what_they_say() -> None:
    config = compose_config(["task=vimeo90k", "data=video_folder", "data.videos='*.mp4'"])
    with pytest.raises(ValueError, match=r"^data.videos=\*.mp4: expected a list, each text$"):
        build(config.data, "data")
    check_arguments(compose_config(["task=vimeo90k", "data=video_folder"]).data, "data")


@pytest.mark.parametrize(
    ("task", "word", "said"),
    [
        ("vimeo90k", "data.augment.crop=64", "data.augment.crop=64: expected a list, each a whole"),
        ("vimeo90k", "data.augment.crop=[a,b]", r"data.augment.crop=\['a', 'b'\]: expected a list"),
        ("vimeo90k", "data.augment.flip=x", "data.augment.flip=x: expected a number"),
        *(
            (task, f"++data.synthetic.{key}=x", f"data.synthetic.{key}=x: expected a whole number")
            for task in ("vimeo90k", "vid", "cityscapes", "ucf101", "flying_chairs")
            for key in ("seed", "scene.length")
        ),
    ],
)
def test_settings_within_settings_are_seen_too(
    tmp_path: Path, task: str, word: str, said: str
) -> None:
    config = compose_config([f"task={task}", word, f"data.synthetic_root={tmp_path}"])
    with pytest.raises(ValueError, match=f"^{said}"):
        build(config.data, "data")(seed=0).prepare_data()


def test_what_is_right_or_takes_anything_passes() -> None:
    def take(whole: int, real: float, word: str | None, anything: object, bare=1) -> None:  # type: ignore[no-untyped-def]
        """Take arguments, one of them without an annotation."""

    for real in (1, 1.5):
        values = {"whole": 1, "real": real, "word": None, "anything": [{}], "bare": "x", "new": 1}
        check_values(take, OmegaConf.create(values), "")
    with pytest.raises(ValueError, match=r"^a\.real=false: expected a number$"):
        check_values(take, {"real": False}, "a.")


@pytest.mark.parametrize("task", ["vid", "cityscapes", "ucf101", "hmdb51", "vimeo90k"])
def test_our_own_configs_are_right(task: str) -> None:
    for method in ("per_frame", "off"):
        check_arguments(compose_config([f"task={task}", f"method={method}"]))
