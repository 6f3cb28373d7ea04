"""The optimizer that is wrapped: whether its arithmetic is fused, and how its step is called if it is not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, SparseAdam

from srft_kernels.ops.contract import Inner, Setting

FUSED: dict[type[Optimizer], Inner] = {AdamW: Inner.ADAM, Adam: Inner.ADAM, SGD: Inner.SGD}
MOMENTS: dict[Inner, tuple[str, ...]] = {
    Inner.ADAM: ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    Inner.SGD: ("momentum_buffer",),
    Inner.NONE: (),
}


class InnerOptimizer:
    """What the wrapper has to know about the optimizer inside.

    Args:
        optimizer: The optimizer. Nothing in it is changed.

    Raises:
        TypeError: If it is not a torch optimizer, or if no wrapper can work around it. The message says why.
        ValueError: If its groups have options that SRFT cannot work with.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        _refuse_unsuitable(optimizer)
        self.optimizer = optimizer
        self.kind = FUSED.get(type(optimizer), Inner.NONE)
        self.fused = self.kind is not Inner.NONE
        self._takes_closure = _closure_of(optimizer) is not None

    @property
    def counter(self) -> str:
        """The name of the count of steps in a parameter's state."""
        return "step" if self.fused else "transfer_step"

    def moments(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the averages that a fused step keeps for the group's parameters."""
        names = MOMENTS[self.kind]
        if self.kind is Inner.ADAM and not group["amsgrad"]:
            return names[:2]
        if self.kind is Inner.SGD and group["momentum"] == 0:
            return ()
        return names

    def decoupled_decay(self, group: Mapping[str, Any]) -> bool:
        """Return whether weight decay acts on the weights, as in AdamW, and not through the gradient."""
        return bool(group.get("decoupled_weight_decay", isinstance(self.optimizer, AdamW)))

    def second_moment(self, group: Mapping[str, Any]) -> bool:
        """Return whether the inner optimizer's second moment averages the task gradient alone and can serve as T."""
        l2_decay = group.get("weight_decay", 0) != 0 and not self.decoupled_decay(group)
        return self.kind is Inner.ADAM and group["mode"] != "coupled" and not l2_decay

    def settings(self, group: Mapping[str, Any]) -> dict[Setting, float]:
        """Return those settings of the group's next step that come from the inner optimizer.

        A learning rate on a device is given as 0. From an optimizer that is not fused, only the sign and the learning
        rate are read; the learning rate is 1 if the group has none.
        """
        lr = group.get("lr", 1.0)
        found = {
            Setting.LEARNING_RATE: 0.0 if on_device(lr) else float(lr),
            Setting.GRADIENT_FACTOR: -1.0 if group.get("maximize") else 1.0,
        }
        if self.kind is Inner.ADAM:
            beta1, beta2 = group["betas"]
            found[Setting.BETA1], found[Setting.BETA2] = float(beta1), float(beta2)
            found[Setting.EPSILON] = float(group["eps"])
        elif self.kind is Inner.SGD:
            found[Setting.BETA1], found[Setting.BETA2] = float(group["momentum"]), float(group["dampening"])
        if self.fused:
            found[Setting.WEIGHT_DECAY] = float(group["weight_decay"])
        return found

    def step(self, loss: Any, evaluated: bool) -> None:
        """Take the inner optimizer's own step.

        If a closure was evaluated, the inner optimizer gets one that returns ``loss`` once.

        Args:
            loss: What the user's closure returned.
            evaluated: Whether there was a closure.

        Raises:
            RuntimeError: If the inner optimizer evaluates the closure again, because it would move the weights in
                between.
        """
        if not (evaluated and self._takes_closure):
            self.optimizer.step()
            return
        calls = 0

        def closure() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise RuntimeError(
                    f"{type(self.optimizer).__name__} evaluates its closure more than once in a step, as line searches "
                    "and sharpness-aware methods do; SRFT cannot hold weights that move in between: use another "
                    "optimizer inside"
                )
            return loss

        self.optimizer.step(closure)


def on_device(number: Any) -> bool:
    """Return whether a setting is a tensor on a device, for which the host would have to wait."""
    return isinstance(number, torch.Tensor) and number.device.type != "cpu"


def _closure_of(optimizer: Optimizer) -> inspect.Parameter | None:
    """Return the closure among the parameters of an optimizer's step, or None."""
    try:
        parameters = inspect.signature(optimizer.step).parameters
    except (TypeError, ValueError):
        return None
    return parameters.get("closure")


def _refuse_unsuitable(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"SRFT wraps a torch.optim.Optimizer, got {type(optimizer).__name__}: SRFT(torch.optim.AdamW(...), ...)"
        )
    name = type(optimizer).__name__
    closure = _closure_of(optimizer)
    again = hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step")
    needs_closure = closure is not None and closure.default is inspect.Parameter.empty
    if isinstance(optimizer, LBFGS) or again or needs_closure:
        raise TypeError(
            f"SRFT cannot wrap {name}: it evaluates its closure several times in a step and moves the weights in "
            "between; wrap an optimizer that takes one gradient a step, such as AdamW, or the one inside of it"
        )
    if isinstance(optimizer, SparseAdam):
        raise TypeError(
            f"SRFT cannot wrap {name}, which takes sparse gradients alone: keep it as an optimizer of its own"
        )
    for group in optimizer.param_groups:
        if "lr" in group and group["lr"] is None:
            raise ValueError(
                f"{name} has lr=None, and the pull toward the anchor is in proportion to the learning rate: give one "
                "(for Adafactor: lr=..., relative_step=False)"
            )
        if group.get("differentiable"):
            raise ValueError("differentiable=True is not supported: SRFT's step runs outside autograd")
