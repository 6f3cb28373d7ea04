"""Cross-modality distillation: a small student of one stream learns from a frozen two-stream teacher.

This is our own design after the abstract of CMDTrack (Zhang, Zhang, Debattista and Han, TPAMI 2025,
10.1109/TPAMI.2025.3555485), of which there is no public code. docs/tuning/distillation.md says what is taken from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from tracker.config import TUNED_GROUPS, DistillSection
from tracker.errors import RGBXError
from tracker.models.checkpoints.fingerprint import network_fingerprint
from tracker.models.config import NetworkConfig, evenly_spaced_layers
from tracker.models.elimination import to_grid
from tracker.models.tracker import SingleStreamTracker, Tracker, TrackerOutput
from tracker.spellings import american
from tracker.tuning.base import LoadTracker, Loss, TunedTracker
from tracker.tuning.distill_losses import Distiller, Tap
from tracker.tuning.distill_masking import draw_hidden, hide_blocks
from tracker.tuning.distill_teacher import TapCache, Teacher

if TYPE_CHECKING:
    from tracker.config import RunConfig


LEARNED_WITH = {
    "pairs": ("template_factor", "search_factor"),
    "data": ("depth_style", "depth_clip", "event_style", "thermal_style", "thermal_range"),
}
"""Settings of crops and of X that a teacher's file tells, and that student and teacher have to share."""


class StudentAnswer(NamedTuple):
    """What the student answers in training."""

    output: TrackerOutput
    layers: list[Tap]
    """After each layer that is compared with a meeting of the teacher's streams."""
    features: Tap
    """After the last norm."""
    template: Tensor
    search: Tensor
    """The crops as they were before anything was masked, for the teacher."""


class Student(TunedTracker):
    """An RGB tracker that sees X through a second patch embedding, and runs as one stream for both.

    The embeddings of the two modalities are added, so that the student costs as much as the RGB tracker that it starts
    as: X's embedding starts as zeros. In training one modality may be masked
    (:mod:`tracker.tuning.distill_masking`), and a :class:`Distiller` compares its layers with those of the teacher,
    which sees both modalities whole. Files hold the student alone.
    """

    method = "distill"
    base_kind = "single_stream"
    trains = TUNED_GROUPS["distill"]
    settings_type = DistillSection
    saves_base = True

    def __init__(self, base: Tracker, settings: DistillSection) -> None:
        super().__init__(base, settings)
        config = base.config
        self.patch_embed_x = PatchEmbed(None, config.patch, 3, config.embed_dim)
        for parameter in self.patch_embed_x.parameters():
            nn.init.zeros_(parameter)
        self.distiller: Distiller | None = None
        self.tapped: tuple[int, ...] = ()
        self.teacher: Any = None

    def runs_with(self, name: str) -> bool:
        """Return the student runs without what compares it with its teacher."""
        return not name.startswith("distiller.")

    def learn_from(self, teacher: NetworkConfig) -> None:
        """Make what compares this student with a teacher of that shape. Before the optimizer is made.

        The teacher's K meetings are compared with K layers that end equal parts of the student's depth.

        Raises:
            RGBXError: the teacher's grids are not the student's, or the student has fewer layers than K.
        """
        own = (self.config.template_cells, self.config.search_cells)
        theirs = (teacher.template_cells, teacher.search_cells)
        if own != theirs:
            raise RGBXError(
                f"the teacher has grids of {theirs[0]} and {theirs[1]} cells and the student of {own[0]} and {own[1]}; "
                "tokens are compared one by one, so give both the same crops and patches"
            )
        taps = len(teacher.cross)
        if taps > self.config.depth:
            raise RGBXError(f"the teacher's streams meet {taps} times, and the student has {self.config.depth} layers")
        self.tapped = evenly_spaced_layers(self.config.depth, taps)
        self.distiller = Distiller(self.config.embed_dim, teacher.embed_dim, taps)

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput | StudentAnswer:
        """Normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``, RGB first and X last.

        In training the answer says what there is to compare with the teacher. Raises RGBXError for crops of another
        shape.
        """
        base = self.base
        assert isinstance(base, SingleStreamTracker)
        base.check_inputs(template, search, channels=(6,))
        if not self.training or self.distiller is None:
            return self._tracked(template, search)[0]
        settings = self.settings
        hidden = draw_hidden(len(template), settings.mask_probability, template.device)
        block = settings.mask_cells * self.config.patch
        seen = [hide_blocks(crops, hidden, block, settings.mask_share) for crops in (template, search)]
        output, layers, features = self._tracked(*seen)
        return StudentAnswer(output, layers, features, template, search)

    def _tracked(self, template: Tensor, search: Tensor) -> tuple[TrackerOutput, list[Tap], Tap]:
        base: Any = self.base
        patches = (
            base.rgb.patch_embed(crops[:, :3]) + self.patch_embed_x(crops[:, 3:]) for crops in (template, search)
        )
        tokens = base.positions(*patches)
        kept: Tensor | None = None
        layers = []
        for index in range(self.config.depth):
            tokens, kept = base.layer(base.rgb, index, tokens, kept)
            if index in self.tapped:
                layers.append(Tap(tokens, kept))
        features = base.rgb.norm(tokens)
        whole = to_grid(features, kept, self.config.template_cells**2, self.config.search_cells)
        return base.answer(whole), layers, Tap(features, kept)

    def begin_training(self, config: RunConfig, load: LoadTracker) -> None:
        """Open the teacher that ``config.distill`` names.

        Raises:
            RGBXError: there is none, it cannot be a teacher, or it was trained with other crops or another style of X.
        """
        settings = config.distill
        if settings.teacher is None:
            raise RGBXError("distill.teacher is not set; give the checkpoint of a two-stream tracker to learn from")
        network, shape, meta = load(
            settings.teacher,
            template_size=self.config.template_size,
            search_size=self.config.search_size,
            elimination_layers=(),
            keep_ratio=1.0,
        )
        learned = meta.get("inference", {})
        for section, names in LEARNED_WITH.items():
            for name in names:
                given = getattr(getattr(config, section), name)
                told = american(learned.get(name, given))
                wanted = tuple(told) if isinstance(told, list) else told  # JSON has no tuples
                if wanted != given:
                    raise RGBXError(
                        f"the teacher was trained with {name} {wanted}, not {given}; set {section}.{name}={wanted}"
                    )
        if self.distiller is None:
            self.learn_from(shape)
        cache = None
        if settings.cache is not None:
            cache = TapCache(settings.cache, network_fingerprint(network), settings.cache_gigabytes)
        device = next(self.parameters()).device
        self.teach(Teacher(network, cache, config.train.precision == "bf16").to(device))
        self.to(device)

    def teach(self, teacher: Teacher) -> None:
        """Learn from ``teacher`` from now on."""
        self.keep_aside(teacher)
        self.__dict__["teacher"] = teacher

    def training_loss(self, loss: Loss) -> Loss:
        """Return the tracking loss on masked crops plus the losses against the teacher, with the settings' weights."""
        weights = {name: getattr(self.settings, name) for name in ("common", "specific", "fusion")}

        def with_teacher(answer: StudentAnswer, boxes: Tensor) -> dict[str, Tensor]:
            losses = dict(loss(answer.output, boxes))
            taps = self.teacher(answer.template, answer.search)
            assert self.distiller is not None
            parts = self.distiller(answer.layers, answer.features, taps, self.config.template_cells**2)
            total = losses["total"]
            for name, part in parts.items():
                total = total + weights[name] * part
            return {**losses, **parts, "total": total}

        return with_teacher
