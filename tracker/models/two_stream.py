"""The RGB-X tracker: two ViT streams that meet in cross blocks (SRTrack, arXiv 2508.17488)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig
from tracker.models.elimination import mean_of_streams
from tracker.models.stream import Stream, Tracker, TrackerOutput, vit_block


class TwoStreamTracker(Tracker):
    """A ViT for RGB and one for X, with weights of their own, shared positions and shared head.

    After each of ``config.cross_layers`` an ordinary ViT block attends over the tokens of both streams
    together. The head sees the mean of the two normed streams.

    Where ``config`` asks for elimination (SRTrack has none), each stream drops its own tokens, by its own template,
    before the cross block of that layer sees them, as SDSTrack does it: fusion gets cheaper too, and attention does
    not need the two sets to be the same.
    """

    def __init__(self, config: NetworkConfig) -> None:
        if config.kind != "two_stream":
            raise RGBXError(f"TwoStreamTracker takes a two_stream configuration, not {config.kind}")
        super().__init__(config)
        self.rgb = Stream(config)
        self.x = Stream(config)
        self.cross = nn.ModuleList(vit_block(config, layer) for layer in config.cross)
        self.initialize_blocks()

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``, RGB first and X last.

        Raises RGBXError for crops of another shape.
        """
        self.check_inputs(template, search, channels=(6,))
        rgb = self.tokens(self.rgb, template[:, :3], search[:, :3])
        x = self.tokens(self.x, template[:, 3:], search[:, 3:])
        rgb_kept: Tensor | None = None
        x_kept: Tensor | None = None
        meetings = iter(self.cross)
        for layer in range(self.config.depth):
            rgb, rgb_kept = self.layer(self.rgb, layer, rgb, rgb_kept)
            x, x_kept = self.layer(self.x, layer, x, x_kept)
            if layer in self.config.cross:
                rgb, x = next(meetings)(torch.cat([rgb, x], dim=1)).chunk(2, dim=1)
        streams, kept = (self.rgb.norm(rgb), self.x.norm(x)), (rgb_kept, x_kept)
        return self.answer(mean_of_streams(streams, kept, self.config.template_cells**2, self.config.search_cells))
