"""Frame-exact reading of video files and folders of frames."""

from data_modules.video.folder_source import FolderSource, natural_key
from data_modules.video.open import READERS, Source, open_video

__all__ = ["READERS", "FolderSource", "Source", "natural_key", "open_video"]
