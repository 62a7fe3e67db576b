"""What an optimizer object answers to names that are none of its methods."""

from typing import Any

# TensorFlow's private names for what is public here.
ALIASES = {
    "_initial_accumulator_value": "initial_accumulator_value",
    "_initial_decay": "decay",
    "_iterations": "iterations",
    "_weights": "weights",
}
# What people look for, from TensorFlow, later Keras and PyTorch: where that is here.
_ELSEWHERE = {
    "_create_all_weights": "build(variables)",
    "_create_slots": "build(variables)",
    "_hypers_created": "learning_rate, a Variable once it has been read",
    "_resource_apply_dense": "adagrad_jax.keras.Optimizer(transformation)",
    "_resource_apply_sparse": "adagrad_jax.keras.Optimizer(transformation)",
    "_slots": "get_slot(variable, name)",
    "apply": "apply_gradients(zip(gradients, variables))",
    "load_state_dict": "load(path, variables), or set_weights(weights)",
    "param_groups": "learning_rate, and an optimizer for each group",
    "state_dict": "save(path), or get_weights()",
    "step": "minimize(loss, variables), or apply_gradients",
    "zero_grad": "nothing, for no gradients are kept from step to step",
}


def is_assignable(kind: type, name: str) -> bool:
    """Whether it is private, or declared by the class, and neither method nor fixed."""
    if name.startswith("_"):
        return True
    found = getattr(kind, name, callable)
    fixed = isinstance(found, property) and found.fset is None
    return not (callable(found) or fixed)


def unknown(optimizer: Any, name: str, hyperparameters: list[str]) -> AttributeError:
    """The error for a name that there is not."""
    kind = type(optimizer).__name__
    if name in _ELSEWHERE:
        return AttributeError(f"{kind} has no {name!r}; use {_ELSEWHERE[name]}.")
    if name in dir(type(optimizer)):
        return AttributeError(
            f"{name!r} of {kind} is not to be assigned to; derive a class from it, or "
            "pass what is an argument when making one."
        )
    return AttributeError(
        f"{kind} has no attribute {name!r}; its hyperparameters are "
        f"{', '.join(hyperparameters)}."
    )
