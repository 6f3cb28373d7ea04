"""Folders as the public data sets lay them out, read and written; nothing has to be renamed.

========== ============================ ================================================= ==========================
layout     frames                       boxes                                             absence
========== ============================ ================================================= ==========================
lasher     visible/, infrared/          visible.txt, infrared.txt, init.txt; from 1       w or h <= 0
rgbt234    visible/, infrared/          visible.txt and infrared.txt, which differ        none
rgbt210    visible/, infrared/          init.txt                                          none
gtot       v/, i/                       groundTruth_v.txt, groundTruth_i.txt: corners     none
vtuav      rgb/, ir/                    rgb.txt and ir.txt, of every tenth frame          w or h <= 0
depthtrack color/, depth/ (16-bit mm)   groundtruth.txt; ``*.tag``                        nan
vot_rgbd   as the file ``sequence`` says groundtruth.txt; ``*.tag``, ``anchor.value``      a single number
visevent   vis_imgs/, event_imgs/       groundtruth.txt                                   absent_label.txt: 1 = present
coesot     NAME_aps/, NAME_dvs/         groundtruth.txt                                   absent.txt: 1 = present
fe108      img/, evimg/ (rendered)      groundtruth_rect.txt                              w or h <= 0
folders    an RGB folder and an X one   groundtruth.txt, optional                         nan, or w or h <= 0
========== ============================ ================================================= ==========================

Boxes in memory are 0-based everywhere; the RGB-T sets' files count from 1 (a LasHeR file's 1,1 is 0,0). Frames are
taken in natural order of their names (``v9.jpg`` before ``v10.jpg``), whatever the names are, because published sets
are not consistent. Commas, tabs, semicolons and spaces separate numbers.
"""

from tracker.data.layouts.frames import IMAGE_SUFFIXES, FrameList, frame_files, natural_key
from tracker.data.layouts.own import RGB_FOLDERS, X_FOLDERS
from tracker.data.layouts.reading import load_sequence, open_dataset, open_pair, open_sequence
from tracker.data.layouts.registry import LAYOUTS, detect_layout
from tracker.data.layouts.splits import VAL_SHARE, sequence_folders
from tracker.data.layouts.writing import write_dataset, write_sequence

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "RGB_FOLDERS",
    "VAL_SHARE",
    "X_FOLDERS",
    "FrameList",
    "detect_layout",
    "frame_files",
    "load_sequence",
    "natural_key",
    "open_dataset",
    "open_pair",
    "open_sequence",
    "sequence_folders",
    "write_dataset",
    "write_sequence",
]
