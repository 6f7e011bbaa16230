"""Draw what the networks say: boxes on pictures, flow as colours, pictures side by side."""

from flowfeat.drawing.boxes import class_colour, draw_boxes, draw_detections, draw_truth
from flowfeat.drawing.canvas import Colour, Picture, picture_of
from flowfeat.drawing.flow import flow_picture
from flowfeat.drawing.panels import panel

__all__ = [
    "Colour",
    "Picture",
    "class_colour",
    "draw_boxes",
    "draw_detections",
    "draw_truth",
    "flow_picture",
    "panel",
    "picture_of",
]
