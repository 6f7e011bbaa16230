"""Which decoder `auto` takes for which pattern of access: the rule and its figures.

CPU time (user and system, of all threads) of decord 0.6 over that of PyAV 18, one decoding thread
each, interleaved, medians; below 1 decord leads. Videos: Xvid 320 x 240 of UCF-101 with a key frame
every 12 frames, H.264 640 x 272 with one every 50, H.264 340 x 256 with one every 100; L frames.

=================================================  ==========  =========  =========
access                                             Xvid        H.264, 50  H.264, 100
=================================================  ==========  =========  =========
opened, and all frames in order                    1.7 - 1.8   1.33       1.34
opened, 8 pairs up to 9 frames apart               4.1 - 4.2   1.16       1.12
opened, 7 frames L // 25 apart (OFF's training)    2.2 - 2.4   1.06       1.10
opened, 25 frames L // 25 apart (OFF's testing)    3.1 - 4.2   1.23       1.11
opened, 3 frames about L // 3 apart                2.6 - 3.1   1.14       1.13
open already, all frames in order                  1.8         1.43       1.23
open already, 8 pairs up to 9 frames apart         2.7 - 2.8   1.12       1.07
open already, 7 frames L // 25 apart               1.3 - 2.3   0.9 - 1.0  1.03
open already, 3 frames about L // 3 apart          4.4         1.04       0.97
open already, 7 frames 40 apart                    2.7         1.31       1.11
open already, single frames anywhere               3.5         0.81       0.77
=================================================  ==========  =========  =========

With two threads decord takes 1.8 (Xvid) and 1.3 (H.264, 50) for a clip of OFF's training, opened.

Clips of actions open a video for one clip an epoch, so that they are `near`. UCF-101 is Xvid, and
HMDB-51 is DivX with packed B-frames, which decord reads wrongly.
"""

from typing import Literal

Access = Literal["near", "sparse"]
"""How frames will be asked for.

near
    Frames near each other (sequences, pairs, windows), or few frames of a file that is opened for
    them alone, as clips of actions are.
sparse
    Single frames from anywhere, again and again, of a file that stays open.
"""

_SPARSE_CODECS = ("h264",)


def decord_leads(access: Access, codec: str) -> bool:
    """Say whether decord, where it is exact, costs less than PyAV."""
    return access == "sparse" and codec in _SPARSE_CODECS
