"""Box offsets: by hand, and there and back again."""

import math

import torch

from flowfeat.heads.box_coding import LARGEST_GROWTH, clip, decode, encode

STD = (0.1, 0.1, 0.2, 0.2)


def test_encode_by_hand() -> None:
    reference = torch.tensor([10.0, 20, 30, 60])  # centre 20, 40; 20 x 40
    box = torch.tensor([15.0, 30, 55, 70])  # centre 35, 50; 40 x 40
    expected = torch.tensor([15 / 20 / 0.1, 10 / 40 / 0.1, math.log(2) / 0.2, 0.0])
    torch.testing.assert_close(encode(box, reference, STD), expected)


def test_decode_undoes_encode() -> None:
    torch.manual_seed(0)
    start, side = torch.rand(2, 50, 2) * 100, torch.rand(2, 50, 2) * 80 + 5
    boxes, references = torch.cat((start, start + side), -1)
    offsets = encode(boxes, references, STD)
    torch.testing.assert_close(decode(offsets, references, STD), boxes, atol=1e-3, rtol=1e-4)


def test_growth_is_bounded() -> None:
    box = decode(torch.tensor([0.0, 0, 1e6, 0]), torch.tensor([0.0, 0, 16, 16]), (1, 1, 1, 1))
    assert math.isclose(math.log((box[2] - box[0]) / 16), LARGEST_GROWTH, rel_tol=1e-5)


def test_clip_cuts_x_by_width_and_y_by_height() -> None:
    boxes = torch.tensor([[-5.0, -6, 300, 400], [10, 20, 30, 40]])
    assert clip(boxes, 100, 200).tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]
