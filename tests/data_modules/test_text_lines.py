"""Lists of datasets: any line ends, and a file that is no text is named."""

import pytest

from data_modules.action_lists import read_ucf_classes
from data_modules.flying_chairs import read_split
from data_modules.text_lines import read_lines
from data_modules.vid_annotations import read_class_map, read_still_list, read_vid_list


def test_any_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes("é 1\r\nb\n\nc".encode())
    assert read_lines(tmp_path / "a.txt") == ["é 1", "b", "", "c"]


@pytest.mark.parametrize(
    "read",
    [
        read_class_map,
        read_vid_list,
        read_still_list,
        read_split,
        lambda path: read_ucf_classes(path.parent),
    ],
)
def test_what_is_no_text_is_named(tmp_path, read):
    path = tmp_path / "classInd.txt"
    path.write_bytes(b"1 a\n2 \xff\n")
    with pytest.raises(ValueError, match=r"classInd\.txt: expected UTF-8 text, found byte 0xff at"):
        read(path)
