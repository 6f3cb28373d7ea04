"""The RGB tracker: one ViT over template and search tokens (OSTrack)."""

from __future__ import annotations

from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.elimination import to_grid
from tracker.models.stream import Stream, Tracker, TrackerOutput


class SingleStreamTracker(Tracker):
    """OSTrack (Ye et al., ECCV 2022) without a class token; elimination where ``config`` asks for it."""

    def __init__(self, config: NetworkConfig) -> None:
        if config.kind != "single_stream":
            raise RGBXError(f"SingleStreamTracker takes a single_stream configuration, not {config.kind}")
        super().__init__(config)
        self.rgb = Stream(config)
        self.initialize_blocks()

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Normalized crops ``(B, C, Hz, Hz)`` and ``(B, C, Hs, Hs)``, C 3 or 6; of six the first three count.

        Raises RGBXError for crops of another shape.
        """
        self.check_inputs(template, search, channels=(3, 6))
        tokens = self.tokens(self.rgb, template[:, :3], search[:, :3])
        kept: Tensor | None = None
        for layer in range(self.config.depth):
            tokens, kept = self.layer(self.rgb, layer, tokens, kept)
        features = self.rgb.norm(tokens)
        return self.answer(to_grid(features, kept, self.config.template_cells**2, self.config.search_cells))
