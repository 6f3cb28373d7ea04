"""The RGB tracker: one ViT over template and search tokens (OSTrack without candidate elimination)."""

from __future__ import annotations

from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.stream import Stream, Tracker, TrackerOutput


class SingleStreamTracker(Tracker):
    """OSTrack (Ye et al., ECCV 2022) with every search token kept and no class token."""

    def __init__(self, config: NetworkConfig) -> None:
        if config.kind != "single_stream":
            raise RGBXError(f"SingleStreamTracker takes a single_stream configuration, not {config.kind}")
        super().__init__(config)
        self.rgb = Stream(config)
        self.initialise_blocks()

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Normalised crops ``(B, C, Hz, Hz)`` and ``(B, C, Hs, Hs)``, C 3 or 6; of six the first three count.

        Raises RGBXError for crops of another shape.
        """
        self.check_inputs(template, search, channels=(3, 6))
        tokens = self.tokens(self.rgb, template[:, :3], search[:, :3])
        for block in self.rgb.blocks:
            tokens = block(tokens)
        return self.answer(self.rgb.norm(tokens))
