"""Draw what the networks say: boxes and label maps on pictures, flow as colours, panels."""

from flowfeat.drawing.boxes import class_colour, draw_boxes, draw_detections, draw_truth
from flowfeat.drawing.canvas import Colour, Picture, picture_of
from flowfeat.drawing.flow import flow_picture
from flowfeat.drawing.label_maps import draw_label_map, label_colours
from flowfeat.drawing.panels import panel

__all__ = [
    "Colour",
    "Picture",
    "class_colour",
    "draw_boxes",
    "draw_detections",
    "draw_label_map",
    "draw_truth",
    "flow_picture",
    "label_colours",
    "panel",
    "picture_of",
]
