"""Frame-exact reading of video files and folders of frames."""

from data_modules.video.access import Access
from data_modules.video.folder_source import FolderSource, natural_key
from data_modules.video.open import READERS, Source, decord_obstacle, open_video

__all__ = [
    "READERS",
    "Access",
    "FolderSource",
    "Source",
    "decord_obstacle",
    "natural_key",
    "open_video",
]
