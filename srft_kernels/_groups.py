"""Param groups as users change them: options between steps, groups that are added, and state that is replaced."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from srft_kernels import _options, _state
from srft_kernels._curvature_state import RunningCurvature
from srft_kernels._inner import InnerOptimizer
from srft_kernels._names import checked_maps, name_of
from srft_kernels._plans import Plans
from srft_kernels.ops.native import library

OUTVOTED = 0.01
"""A merged prior in which one of the two has a smaller share than this holds the other's weights alone."""

# For each wrapped optimizer, which options each of its groups had of its own, before and after it was wrapped.
_WRAPPED: WeakKeyDictionary[Optimizer, list[frozenset[str]]] = WeakKeyDictionary()


def _identities(state: Mapping[Any, Any]) -> Any:
    """Return which objects an optimizer's state holds, to be compared.

    With 350 parameters it takes some ten microseconds.
    """
    if library.available:
        return library.build.identities(state)
    return [(id(own), *map(id, own), *map(id, own.values())) for own in state.values()]


def unwrapped(inner: Optimizer) -> tuple[list[frozenset[str]], list[dict[str, Any]]]:
    """Return an optimizer's groups without what an earlier wrapper has left in them.

    Returns:
        Which options each group has of its own, and the groups with these alone.
    """
    own = list(_WRAPPED.get(inner, ()))
    own += [frozenset(group).intersection(_options.OPTIONS) for group in inner.param_groups[len(own) :]]
    ours = (*_options.OPTIONS, *_options.COUNTS)
    return own, [
        {key: value for key, value in group.items() if key not in ours or key in mine}
        for group, mine in zip(inner.param_groups, own, strict=False)
    ]


def _warn_if_outvoted(share: float) -> None:
    """Warn if the present prior's share of the merged one leaves next to nothing of it, or of the new one."""
    if OUTVOTED <= share <= 1 - OUTVOTED:
        return
    name, part = ("present", share) if share < OUTVOTED else ("new", 1 - share)
    # The warning points at the caller of SRFT.begin_task: this function and two methods of that name are between.
    warnings.warn(
        f"the {name} prior is {part:.1g} of the merged one, so that what it protects is hardly held: change gamma, or "
        'give every prior over its own mean (prior.normalized("global") here and in the constructor, normalize=None)',
        RuntimeWarning,
        stacklevel=4,
    )


class GroupWatch:
    """Watches the groups and the state that a wrapper shares with the optimizer inside, before every step.

    Args:
        optimizer: The wrapper. Its ``param_groups`` are the inner optimizer's objects, and so is its ``state`` if the
            inner optimizer is fused.
        inner: The optimizer inside.
        plans: The plans that are forgotten when state changes.
        running: The estimate of curvature, or None.
        own_options: Which options each group has of its own (:func:`unwrapped`).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        inner: InnerOptimizer,
        plans: Plans,
        running: RunningCurvature | None,
        own_options: list[frozenset[str]],
    ) -> None:
        self._optimizer = optimizer
        self._inner = inner
        self._plans = plans
        self._running = running
        self.own_options = own_options
        self._state: _state.State = optimizer.state
        self._groups: list[dict[str, Any]] = []
        self._seen: list[tuple[Any, ...]] = []
        self._kept: dict[Any, Any] = {}  # what each parameter's state holds
        self._identities: Any = None
        self.note()
        _WRAPPED[inner.optimizer] = own_options

    @property
    def curved(self) -> bool:
        """Whether curvature is estimated on the way."""
        return self._running is not None

    def note(self) -> None:
        """Remember the groups as they are now."""
        self._groups = list(self._optimizer.param_groups)
        self._seen = [_options.snapshot(group, self._inner) for group in self._groups]
        self.note_state()

    def note_state(self) -> None:
        """Remember the tensors of state, on which plans work."""
        self._kept = {param: dict(own) for param, own in self._state.items() if isinstance(own, dict)}
        self._identities = _identities(self._state)

    def accept_changes(self, anew: bool = False) -> None:
        """Check what has changed since the last step, and make the state that the changes need.

        Args:
            anew: Whether anchors and priors are about to be given anew, so that none has to be there.

        Raises:
            ValueError: For options that are out of range, or that need an anchor or a prior which was not kept.
            RuntimeError: If another wrapper has wrapped the inner optimizer since, or if state was deleted.
        """
        optimizer, inside = self._optimizer, self._inner.optimizer
        if _WRAPPED.get(inside) is not self.own_options:
            raise RuntimeError(
                "the optimizer inside was wrapped again since, and this wrapper's anchor and prior are gone: use the "
                "newer wrapper (or begin_task() on this one, instead of wrapping again)"
            )
        if optimizer.param_groups is not inside.param_groups:
            optimizer.param_groups = inside.param_groups
        if optimizer.state is not self._state or (self._inner.fused and inside.state is not self._state):
            self._adopt_state()
        if self._identities != _identities(self._state):
            self._accept_state(anew)
        for index, group in enumerate(optimizer.param_groups):
            if index >= len(self._groups) or group is not self._groups[index]:
                self._adopt_group(index, group)
            elif self._seen[index] != _options.snapshot(group, self._inner):
                self._accept_options(index, group, anew)

    def _accept_options(self, index: int, group: dict[str, Any], anew: bool) -> None:
        chosen = _options.checked(group, self._inner)
        changed = {**group, **chosen}
        now, before = _options.snapshot(changed, self._inner), self._seen[index]
        if now[0] != before[0]:
            if not anew:
                self._refuse_unprepared(changed, was_regularized=before[1])
            group.update(chosen)
            for param in group["params"]:
                _state.forget_statistics(self._state.get(param, {}))
            self._plans.forget()
        group.update(chosen)
        self._seen[index] = now

    def _refuse_unprepared(self, group: Mapping[str, Any], was_regularized: bool) -> None:
        if group["regularize"] and not was_regularized:
            raise ValueError(
                "regularize was False when this group's state was made, so no anchor and no prior were kept for it: "
                "call optimizer.begin_task(prior), which anchors the weights where they are"
            )
        lacking = any(p.requires_grad and "anchor" not in self._state.get(p, {}) for p in group["params"])
        if group["regularize"] and group["transfer_anchor"] == "initial" and lacking:
            raise ValueError(
                "transfer_anchor='initial' wants an anchor, and none was kept for this group: give the option when the "
                "optimizer is wrapped, or call optimizer.begin_task(), which anchors the weights where they are"
            )

    def _adopt_group(self, index: int, group: dict[str, Any]) -> None:
        """Adopt a group that was added to the inner optimizer, or that came with a state which it loaded by itself."""
        old = self._groups[index] if index < len(self._groups) else None
        if old is not None and list(map(id, old["params"])) == list(map(id, group["params"])):
            group.update({key: value for key, value in old.items() if key not in group})
            group.update(_options.checked(group, self._inner))
            self._plans.forget()
            self.note()
        else:
            self.add(index, {**self._optimizer.defaults, **group})

    def add(self, index: int, proposed: Mapping[str, Any]) -> None:
        """Complete a new group's options and make its state.

        Args:
            index: Its position among the groups.
            proposed: The group with all options, which are checked here.
        """
        group = self._optimizer.param_groups[index]
        options = _options.checked(proposed, self._inner)
        twice = self._running is not None and self._running.spec.method == "autograd"
        self._plans.mesh = _options.check_parameters(group["params"], [group], self._plans.mesh, twice)
        own = frozenset(group).intersection(_options.OPTIONS)
        for key, value in proposed.items():
            group.setdefault(key, value)
        group.update(options)
        self.own_options[index:] = [own]
        _state.make(self._state, group, self._inner, {}, {}, self.curved)
        if self._running is not None:
            self._running.begin()
        self._plans.forget()
        self.note()

    def _adopt_state(self) -> None:
        """Adopt a state that someone has given the optimizer: take its averages, and add the wrapper's own entries."""
        optimizer, inside, kept = self._optimizer, self._inner.optimizer, self._state
        if not self._inner.fused:
            optimizer.state = kept  # type: ignore[assignment]
            return
        replaced = optimizer.state if optimizer.state is not kept else inside.state
        for param, own in kept.items():
            extra = {name: own[name] for name in _state.EXTRA_STATE if name in own}
            if extra:
                replaced[param] = {**replaced.get(param, {}), **extra}
                _state.set_count(replaced[param], self._inner, param)
        optimizer.state = inside.state = replaced
        self._state = replaced
        self.note_state()
        self._plans.forget()

    def _accept_state(self, anew: bool) -> None:
        """Take over tensors that someone has put into a parameter's state, or find out what they took from it.

        Raises:
            RuntimeError: The state was emptied, has lost an anchor, a prior or a curvature, or holds what no step could
                use.
        """
        groups = self._optimizer.param_groups
        ours = (*_state.SIZED_STATE, *_state.EXTRA_STATE, self._inner.counter)
        changed = False
        for param, before in self._kept.items():
            own = self._state.get(param)
            if not isinstance(own, dict):
                raise RuntimeError(
                    "optimizer.state was emptied, and the anchor and the prior with it: wrap the optimizer inside "
                    "again, or set the averages to zero in place if only they are to begin anew"
                )
            given_anew = ("anchor", "prior") if anew else ()
            kept = [name for name in ("anchor", "prior", "curvature") if name in before and name not in given_anew]
            lost = [name for name in kept if own.get(name) is None]
            if lost:
                raise RuntimeError(
                    f"optimizer.state of parameter {name_of(param, groups)} has lost its {' and its '.join(lost)}: put "
                    "it back, or call optimizer.begin_task(prior), which anchors the weights where they are"
                )
            others = [name for name in ours if own.get(name) is not before.get(name)]
            for name in others:
                found = _state.misfit(param, name, own.get(name))
                if found:
                    raise RuntimeError(
                        f"optimizer.state was given what no step could use, {name} of {name_of(param, groups)}: {found}"
                    )
            if "transfer_histogram" in own:  # as saved: ZeRO loads the state of each parameter itself
                own["transfer_statistics"] = _state.statistics_of(own, param.device)
                del own["transfer_histogram"]
            changed = changed or bool(others)
        self.note_state()
        if changed:
            self._plans.forget()

    def begin_task(
        self, prior: Any, gamma: float | None, anchor: Any, changes: Mapping[str, Any], strict: bool
    ) -> None:
        """Give every group the anchor and the prior of the next task; see :meth:`SRFT.begin_task`.

        Args:
            prior: The prior of what was learned last, or None.
            gamma: The share of the present prior that remains, or None.
            anchor: ``"current"``, or a mapping.
            changes: Options for all groups. None leaves an option as it is.
            strict: Whether every tensor has to fit its parameter.

        Raises:
            ValueError: If an argument or a tensor does not fit. Nothing is changed then.
        """
        self.accept_changes(anew=True)
        groups = self._optimizer.param_groups
        if gamma is not None and not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
        chosen = {option: value for option, value in changes.items() if value is not None}
        options = [_options.checked({**group, **chosen}, self._inner) for group in groups]
        priors, anchors = checked_maps(prior, anchor, "current", groups, strict)
        if gamma is None:
            gamma = 1.0 if priors is None else 0.0
        merged = priors is not None and gamma > 0
        before = gamma * _state.mass_of_priors(self._state, groups) if merged else 0.0
        for group, known in zip(groups, options, strict=True):
            group.update(known, task_began=group["updates"])
            _state.begin_task(self._state, group, priors, anchors, gamma)
        self._plans.forget()
        self.note()
        if before > 0:
            _warn_if_outvoted(before / _state.mass_of_priors(self._state, groups))
