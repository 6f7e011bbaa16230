"""Official split lists of UCF-101 and HMDB-51: counts, spellings, groups that never leak."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from data_modules.action_lists import Listed, hold_out, read_hmdb_lists, read_ucf_lists


def ucf(folder: Path, train: str, test: str = "", classes: str = "1 Run\r\n2 HandstandPushups\r\n"):
    folder.mkdir(exist_ok=True)
    for name, text in (("classInd", classes), ("trainlist01", train), ("testlist01", test)):
        (folder / f"{name}.txt").write_bytes(text.encode())
    return read_ucf_lists(folder, 1)


def test_ucf_lists_with_windows_line_ends_and_two_spellings(tmp_path):
    lists = ucf(
        tmp_path,
        "Run/v_Run_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g25_c07.avi 2\r\n\r\n",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n",
    )
    assert lists.classes == ("Run", "HandstandPushups")
    assert lists.train == [
        Listed("Run/v_Run_g08_c01", 0, "g08"),
        Listed("HandstandPushups/v_HandStandPushups_g25_c07", 1, "g25"),
    ]
    assert lists.test == [Listed("HandstandPushups/v_HandStandPushups_g01_c01", 1, "g01")]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("Jump/v_Jump_g01_c01.avi 1\n", r"trainlist01.txt: line 1: class 'Jump' is not in classIn"),
        ("\nRun/v_Run_g01_c01.avi 2\n", r"line 2: expected 1, the number of Run .* found '2'"),
        ("v_Run_g01_c01.avi 1\n", r"line 1: expected '<class>/<video>.avi'"),
        ("Run/a.avi 1\nRun/a.avi 1\n", r"1 videos are listed twice: Run/a"),
    ],
)
def test_bad_ucf_lines_are_named(tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        ucf(tmp_path, train)


@pytest.mark.parametrize("classes", ["0 Run\n", "1 Run\n2 Run\n", "1 Run\n3 Jump\n", "1\n", ""])
def test_a_bad_index_is_refused(tmp_path, classes):
    with pytest.raises(ValueError, match=r"classInd\.txt: "):
        ucf(tmp_path, "Run/v_Run_g01_c01.avi 1\n", classes=classes)


def test_a_split_that_is_not_there(tmp_path):
    ucf(tmp_path, "Run/v_Run_g01_c01.avi 1\n")
    with pytest.raises(FileNotFoundError, match=r"trainlist02\.txt: no such list, found"):
        read_ucf_lists(tmp_path, 2)


def test_a_group_on_both_sides_is_reported(tmp_path, caplog):
    train = "Run/v_Run_g01_c01.avi 1\nHandstandPushups/v_HandStandPushups_g02_c01.avi 2\n"
    with caplog.at_level(logging.WARNING):
        ucf(tmp_path, train, "Run/v_Run_g02_c01.avi\n")  # g02 of another class
        assert not caplog.records
        ucf(tmp_path, train, "Run/v_Run_g01_c02.avi\n")
    assert "1 groups are in the training and in the test list (g01)" in caplog.text


def hmdb(folder: Path, **classes: str):
    for name, text in classes.items():
        (folder / f"{name}_test_split1.txt").write_text(text)
    return read_hmdb_lists(folder, 1)


def test_hmdb_codes_blanks_and_strange_names(tmp_path):
    lists = hmdb(
        tmp_path,
        wave="21_wave_u_nm_np1_fr_goo_5.avi 1 \n50_FIRST_DATES_wave_f_cm_np10_fr_med_0.avi 2 \n",
        brush_hair="A__[_NEW_]_(#2)_UPDATED!!;&_brush_hair_h_cm_np1_fr_goo_0.avi 1 \n"
        "x_brush_hair_h_cm_np1_fr_goo_1.avi 0 \n",
    )
    assert lists.classes == ("brush_hair", "wave")
    assert lists.train == [
        Listed(
            "brush_hair/A__[_NEW_]_(#2)_UPDATED!!;&_brush_hair_h_cm_np1_fr_goo_0",
            0,
            "A__[_NEW_]_(#2)_UPDATED!!;&",
        ),
        Listed("wave/21_wave_u_nm_np1_fr_goo_5", 1, "21"),
    ]
    assert [video.group for video in lists.test] == ["50_FIRST_DATES"]
    with pytest.raises(ValueError, match=r"jump_test_split1.txt: line 1: expected .*'a.avi 3'"):
        hmdb(tmp_path, jump="a.avi 3 \n")
    with pytest.raises(FileNotFoundError, match=r"expected <class>_test_split3\.txt"):
        read_hmdb_lists(tmp_path, 3)


def test_whole_groups_of_every_class_are_held_out():
    videos = [
        Listed(f"{action}/{group}_{clip}", action, f"g{group:02}")
        for action in range(4)
        for group in range(10)
        for clip in range(3)
    ]
    kept, held = hold_out(videos, Path("list"), 0.2)
    assert sorted(kept + held) == sorted(videos)
    assert not {video.group for video in kept} & {video.group for video in held}
    assert Counter(video.action for video in held) == dict.fromkeys(range(4), 6)
    assert hold_out(videos[::-1], Path("list"), 0.2)[1] == held[::-1]  # the names decide


def test_a_class_keeps_its_only_group():
    lone = [Listed("a/0", 0, "x"), Listed("a/1", 0, "x")]
    rest = [Listed(f"b/{n}", 1, f"y{n}") for n in range(4)]
    _, held = hold_out(lone + rest, Path("list"), 0.25)
    assert [video.action for video in held] == [1]
    with pytest.raises(ValueError, match=r"list: no class has a group to spare.*val_share=0"):
        hold_out(lone, Path("list"), 0.25)
    with pytest.raises(ValueError, match=r"list: c/2: expected names that tell the group"):
        hold_out([*rest, Listed("c/2", 1, None)], Path("list"), 0.25)


def test_the_official_lists(samples):
    sizes = {"ucfTrainTestlist": (9537, 3783, 101), "testTrainMulti_7030_splits": (3570, 1530, 51)}
    for (folder, expected), read in zip(
        sizes.items(), (read_ucf_lists, read_hmdb_lists), strict=True
    ):
        lists = read(samples / folder, 1)
        assert (len(lists.train), len(lists.test), len(lists.classes)) == expected
        assert all(video.group for video in lists.train + lists.test)
        kept, held = hold_out(lists.train, lists.train_path, 0.1)
        assert not {video.group for video in kept} & {video.group for video in held}
        share = [
            sum(video.action == action for video in held)
            / sum(video.action == action for video in lists.train)
            for action in range(len(lists.classes))
        ]
        assert 0.05 < min(share) <= max(share) < 0.2


def test_official_groups_do_not_leak_into_the_test(samples, caplog):
    read_ucf_lists(samples / "ucfTrainTestlist", 1)
    read_hmdb_lists(samples / "testTrainMulti_7030_splits", 1)
    assert "groups are in the training and in the test list" not in caplog.text
