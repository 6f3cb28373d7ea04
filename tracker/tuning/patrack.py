"""PATrack: one frozen RGB tracker for both modalities, adapted within, between and after them (arXiv 2603.21100).

RGB and X go through the same frozen blocks as two halves of one batch. In most layers a frequency mixer changes what
attention and MLP add. In three of them the two modalities meet by shared guidance. An adapter before the head maps the
streams' sum to what the head knows. docs/tuning/patrack.md says where the published code differs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker.config import TUNED_GROUPS, PATrackSection
from tracker.errors import RGBXError
from tracker.models.config import elimination_layers
from tracker.models.tracker import SingleStreamTracker, Tracker, TrackerOutput, VitBlock
from tracker.tuning.base import RecomputedLayer, TunedTracker
from tracker.tuning.patrack_adapters import FrequencyMixer, SharedGuidanceFusion, TaskAdapter

NORM_EPSILON = 1e-6
Norm = Callable[[Tensor], Tensor]


def modalities(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return RGB and X of ``(2B, N, D)``, RGB before X.

    ``chunk`` would make the batch of an exported graph a constant.
    """
    rgb, x = tokens.unflatten(0, (2, -1)).unbind()
    return rgb, x


class ModalityDependent(nn.Module):
    """What a frequency mixer adds to both modalities.

    Args:
        mixer: shared by both.
        source: ``own`` gives each modality the frequencies of itself, as the paper has it; ``other`` those of the
            other one, as the published code does.
    """

    def __init__(self, mixer: FrequencyMixer, source: str) -> None:
        super().__init__()
        self.mixer = mixer
        self.source = source

    def forward(self, norm: Norm, tokens: Tensor) -> Tensor:
        """Return what is added to ``tokens (2B, N, D)``, RGB before X. ``norm`` is the frozen block's."""
        mixed: Tensor = self.mixer(norm(tokens))
        if self.source == "own":
            return mixed
        return torch.cat(modalities(mixed)[::-1])


class ModalityEntangled(nn.Module):
    """What fusion by shared guidance adds to both modalities.

    The tokens come in through a norm without weights (the published code has weights there and never trains them), and
    what comes out goes through the frozen block's own norm.
    """

    def __init__(self, fusion: SharedGuidanceFusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, norm: Norm, tokens: Tensor) -> Tensor:
        """Return what is added, as :meth:`ModalityDependent.forward`."""
        rgb, x = modalities(F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPSILON))
        return norm(torch.cat(self.fusion(rgb, x)))


class PATrackLayer(RecomputedLayer):
    """A frozen block with an adapter beside its attention and one beside its MLP, for both modalities."""

    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def forward(self, block: VitBlock, tokens: Tensor) -> Tensor:
        """Return ``tokens (2B, N, D)``, RGB before X, after ``block`` with its adapters."""
        added = block.drop_path1(self.attention(block.norm1, tokens))
        tokens = block.attend(tokens)[0] + added
        added = block.drop_path2(self.mlp(block.norm2, tokens))
        changed: Tensor = block.feed_forward(tokens) + added
        return changed


class PATrack(TunedTracker):
    """An RGB tracker with PATrack's adapters, of which only those are created that are used.

    Candidate elimination is refused: the adapters work on the whole grid of template and search region.
    """

    method = "patrack"
    base_kind = "single_stream"
    trains = TUNED_GROUPS["patrack"]
    settings_type = PATrackSection
    eliminates = False

    def __init__(self, base: Tracker, settings: PATrackSection) -> None:
        super().__init__(base, settings)
        config = base.config
        self._check_ratio(config.keep_ratio)
        entangled = settings.entangled_layers
        if entangled is None:
            entangled = elimination_layers(config.depth)
        if any(not 0 <= layer < config.depth for layer in entangled):
            raise RGBXError(
                f"patrack.entangled_layers {list(entangled)} are not all layers of this network; "
                f"they count from 0 to {config.depth - 1}"
            )
        dim, grids = config.embed_dim, (config.template_cells, config.search_cells)

        def adapter(layer: int) -> nn.Module:
            if layer in entangled:
                return ModalityEntangled(SharedGuidanceFusion(dim, grids, settings.gated))
            return ModalityDependent(FrequencyMixer(dim, grids), settings.source)

        self.layers = nn.ModuleList(PATrackLayer(adapter(layer), adapter(layer)) for layer in range(config.depth))
        self.task = TaskAdapter(dim, settings.dropout)
        self._initialize()

    def _initialize(self) -> None:
        """Initialize as published: the mixers' linear layers as those of a ViT, all others by torch's default."""
        for module in self.layers.modules():
            if isinstance(module, FrequencyMixer):
                nn.init.trunc_normal_(module.down.weight, std=0.02)
                nn.init.zeros_(module.down.bias)

    def set_keep_ratio(self, ratio: float) -> None:
        """Do as :meth:`tracker.models.tracker.Tracker.set_keep_ratio`. Raises RGBXError for a ratio other than 1."""
        self._check_ratio(ratio)
        super().set_keep_ratio(ratio)

    def _check_ratio(self, ratio: float) -> None:
        if ratio != 1.0:
            raise RGBXError(
                f"tuning patrack needs every search token in its place and cannot keep {ratio:g} of them; "
                "set network.keep_ratio=1"
            )

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``, RGB first and X last.

        Raises RGBXError for crops of another shape.
        """
        base = self.base
        assert isinstance(base, SingleStreamTracker)
        base.check_inputs(template, search, channels=(6,))
        halves = (torch.cat(crops.chunk(2, dim=1)) for crops in (template, search))
        tokens = base.tokens(base.rgb, *halves)
        for layer, block in zip(self.layers, base.rgb.blocks, strict=True):
            tokens = layer(block, tokens)
        rgb, x = modalities(base.rgb.norm(tokens))
        # This is a sum and not the mean, because the adapter behind it finds its own scale.
        fused = rgb + x
        count = base.config.template_cells**2
        return base.answer(torch.cat([fused[:, :count], self.task(fused[:, count:])], dim=1))
