"""What an optimizer object trains: named cells that hold an array and can be given
another, this library's own or those of other libraries."""

import contextlib
import contextvars
import dataclasses
import operator
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state
from jax.tree_util import SequenceKey
from jax.typing import ArrayLike, DTypeLike

Constraint = Callable[[jax.Array], ArrayLike]
Operator = Callable[..., Any]


@dataclasses.dataclass
class Substitution:
    """What variables stand for while a loss is traced, and how they were read there."""

    arrays: dict[int, jax.Array]
    trace: Any = dataclasses.field(default_factory=get_opaque_trace_state)
    read: set[int] = dataclasses.field(default_factory=set)
    # By name, how often inside a function that JAX traces by itself, as jit does.
    nested: Counter[str] = dataclasses.field(default_factory=Counter)


# Held while variables' arrays are given up to a compiled step, and while one is taken.
arrays_lock = threading.RLock()

# One thread's tracers must not be seen by another: this is not kept in the variables.
_substitution: contextvars.ContextVar[Substitution | None] = contextvars.ContextVar(
    "substitution", default=None
)


_EAGER = get_opaque_trace_state()


def is_staged() -> bool:
    """Whether JAX traces a function to run it again later, as jit does."""
    # Under jax.grad and jax.vmap alone what does not depend on their inputs is known.
    return get_opaque_trace_state() != _EAGER and isinstance(jnp.zeros(()), Tracer)


def argument_needed(names: str) -> ValueError:
    """The error for variables that such a function found by itself."""
    return ValueError(
        f"{names} must be an argument of the function under jax.jit, or the like, that "
        "reads it: JAX traces such a function once, and then does not read variables "
        "again. Write f(w) and `def f(w)`, or define the function inside the loss; of "
        "one that never changes take the array, w.value, outside."
    )


def _own(value: Any, dtype: Any) -> jax.Array:
    """``value`` itself if it is an array of JAX and dtype, else a copy."""
    if isinstance(value, jax.Array):
        return jnp.asarray(value, dtype)
    # JAX may go on using NumPy's memory, which the user may change.
    return jnp.asarray(
        np.array(value) if isinstance(value, np.ndarray) else value, dtype
    )


def _forward(function: Operator) -> Operator:
    return lambda self, *others: function(self.value, *map(_array_of, others))


def _reflect(function: Operator) -> Operator:
    return lambda self, other: function(_array_of(other), self.value)


def _array_of(other: Any) -> Any:
    return other.value if isinstance(other, Variable) else other


class Variable:
    """A named cell around an array, which an :class:`Optimizer` changes.

    It takes part in arithmetic, indexing and ``jax.numpy`` functions as the array that
    it holds at that time. To JAX it is a pytree of that array: a function under
    ``jax.jit`` or ``jax.grad`` that it is passed to gets the array in its place. Pass
    it, do not let such a function find it elsewhere: JAX remembers what it has once
    traced, and does not read the variable again, so that this raises. So it is with
    ``jax.lax.scan`` and ``jax.checkpoint`` of functions that were not defined inside
    the loss, at the first ``minimize``.

    An array that was taken from a variable stays valid when the variable changes; the
    first step after it was taken copies it for that (see ``donate_variables`` of
    :class:`Optimizer`).

    Args:
      initial_value: An array or number; it is copied.
      trainable: For the user's information; an optimizer trains what it is given.
      name: What messages and the optimizer's weights call it.
      dtype: Its dtype; by default that of ``initial_value``.
      constraint: A function from array to array, put on each new value that an
        optimizer gives it (projected gradient descent).

    Raises:
      TypeError: If ``initial_value`` is a tracer or no array.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> w = aj.keras.Variable([1.0, 2.0], name="w")
      >>> print(jnp.sum(w * 3.0), w[1])
      9.0 2.0
      >>> w.assign_add([1.0, 1.0])
      <Variable 'w:0' shape=(2,) dtype=float32 value=[2. 3.]>
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_constraint",
        "_name",
        "_taken",
        "_trainable",
    )
    __array_ufunc__ = None  # NumPy arrays leave arithmetic with us to us

    def __init__(
        self,
        initial_value: ArrayLike | Sequence[Any],
        trainable: bool = True,
        name: str = "Variable",
        dtype: DTypeLike | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self._name = name
        self._trainable = trainable
        self._constraint = constraint
        self._taken: jax.Array | None = None  # the array that others may hold
        initial_value = _array_of(initial_value)
        array = self._stored(_own(initial_value, dtype))
        if array is initial_value:
            array = jnp.copy(array)
        # Not weakly typed, or the first step would change that and be compiled twice.
        self._array: jax.Array = array.astype(array.dtype)

    @classmethod
    def holding(cls, array: jax.Array, name: str) -> "Variable":
        """One for an optimizer's state, of an array that nobody else has."""
        variable = cls(0.0, trainable=False, name=name)
        variable._array = array
        return variable

    @property
    def value(self) -> jax.Array:
        """The array; inside a loss that is differentiated, what stands for it."""
        substitution = _substitution.get()
        if substitution is not None:
            if get_opaque_trace_state() != substitution.trace:
                substitution.nested[self.name] += 1
            if id(self) in substitution.arrays:
                substitution.read.add(id(self))
                return substitution.arrays[id(self)]
        elif is_staged():
            raise argument_needed(self.name)
        with arrays_lock:
            self._taken = self._array
            return self._array

    @property
    def name(self) -> str:
        """Its name as TensorFlow writes it, ``"w:0"``."""
        return f"{self._name}:0"

    @property
    def trainable(self) -> bool:
        """What was said when it was made."""
        return self._trainable

    @property
    def constraint(self) -> Constraint | None:
        """The function that each new value goes through."""
        return self._constraint

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape, which never changes."""
        return self._array.shape

    @property
    def dtype(self) -> Any:
        """The array's dtype, which never changes."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    def numpy(self) -> np.ndarray:
        """A copy of the value as a NumPy array."""
        with arrays_lock:
            return np.array(self._array)

    def assign(self, value: ArrayLike | Sequence[Any]) -> "Variable":
        """Gives it another value, of its shape, converted to its dtype.

        Raises:
          TypeError: If ``value`` is a tracer or no array.
          ValueError: If it is of another shape.
          RuntimeError: If called by a loss while that is differentiated.
        """
        if _substitution.get() is not None:
            raise RuntimeError(
                f"{self.name} cannot be assigned to by a loss that is differentiated; "
                "assign after `minimize`, or return what is to be assigned."
            )
        value = _array_of(value)
        if np.shape(value) != self.shape:
            raise ValueError(
                f"{self.name} is of shape {self.shape} and cannot be assigned a value "
                f"of shape {np.shape(value)}: Shapes {self.shape} and "
                f"{np.shape(value)} are incompatible."
            )
        array = self._stored(_own(value, self.dtype))
        with arrays_lock:
            self._array = array
            self._taken = array if array is value else None
        return self

    def assign_add(self, delta: ArrayLike | Sequence[Any]) -> "Variable":
        """``assign(value + delta)``."""
        with arrays_lock:
            return self.assign(self._array + jnp.asarray(_array_of(delta), self.dtype))

    def assign_sub(self, delta: ArrayLike | Sequence[Any]) -> "Variable":
        """``assign(value - delta)``."""
        with arrays_lock:
            return self.assign(self._array - jnp.asarray(_array_of(delta), self.dtype))

    def _stored(self, array: jax.Array) -> jax.Array:
        if isinstance(array, Tracer):
            raise TypeError(
                f"{self.name} cannot hold {array}, a value that is known only while a "
                "function is traced; inside jax.jit use arrays, and "
                "`Optimizer.stateless_apply`."
            )
        return array

    def __repr__(self) -> str:
        return (
            f"<Variable '{self.name}' shape={self.shape} dtype={self.dtype} "
            f"value={self.numpy()}>"
        )

    def __copy__(self) -> "Variable":
        return Variable(
            self._array, self._trainable, self._name, constraint=self._constraint
        )

    def __deepcopy__(self, memo: Any) -> "Variable":
        del memo
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        value = self.numpy()
        return Variable, (value, self._trainable, self._name, None, self._constraint)

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.name} can only be copied to a NumPy array.")
        return np.array(self.value, dtype)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self._array)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    __index__: Operator = _forward(operator.index)
    __getitem__: Operator = _forward(operator.getitem)
    __neg__: Operator = _forward(operator.neg)
    __abs__: Operator = _forward(operator.abs)
    __add__: Operator = _forward(operator.add)
    __radd__: Operator = _reflect(operator.add)
    __sub__: Operator = _forward(operator.sub)
    __rsub__: Operator = _reflect(operator.sub)
    __mul__: Operator = _forward(operator.mul)
    __rmul__: Operator = _reflect(operator.mul)
    __matmul__: Operator = _forward(operator.matmul)
    __rmatmul__: Operator = _reflect(operator.matmul)
    __truediv__: Operator = _forward(operator.truediv)
    __rtruediv__: Operator = _reflect(operator.truediv)
    __floordiv__: Operator = _forward(operator.floordiv)
    __rfloordiv__: Operator = _reflect(operator.floordiv)
    __mod__: Operator = _forward(operator.mod)
    __rmod__: Operator = _reflect(operator.mod)
    __pow__: Operator = _forward(operator.pow)
    __rpow__: Operator = _reflect(operator.pow)
    __lt__: Operator = _forward(operator.lt)
    __le__: Operator = _forward(operator.le)
    __gt__: Operator = _forward(operator.gt)
    __ge__: Operator = _forward(operator.ge)
    __eq__: Operator = _forward(operator.eq)
    __ne__: Operator = _forward(operator.ne)

    def __hash__(self) -> int:
        return object.__hash__(self)


jax.tree_util.register_pytree_with_keys(
    Variable,
    lambda variable: (((SequenceKey(0), variable.value),), None),
    lambda _, children: next(iter(children)),
    lambda variable: ((variable.value,), None),
)


@contextlib.contextmanager
def substituted(
    variables: Sequence[Variable], arrays: Sequence[jax.Array]
) -> Generator[Substitution]:
    """Within it, in this thread, ``variables`` stand for ``arrays``."""
    ids = map(id, variables)
    substitution = Substitution(dict(zip(ids, arrays, strict=True)))
    token = _substitution.set(substitution)
    try:
        yield substitution
    finally:
        _substitution.reset(token)


class ForeignVariable:
    """Another library's variable, with what an optimizer needs of :class:`Variable`."""

    __slots__ = ("_fresh", "_read", "_write", "constraint", "name")

    def __init__(
        self,
        name: str,
        read: Callable[[], jax.Array],
        write: Callable[[jax.Array], None],
        *,
        fresh: bool = False,
        constraint: Constraint | None = None,
    ) -> None:
        self.name = name
        self.constraint = constraint
        self._read = read
        self._write = write
        self._fresh = fresh  # whether each reading makes an array that no one else has

    @property
    def _array(self) -> jax.Array:
        return self._read()

    @_array.setter
    def _array(self, array: jax.Array) -> None:
        self._write(array)

    @property
    def _taken(self) -> jax.Array | None:
        return None if self._fresh else self._read()


Cell = Variable | ForeignVariable


def as_cell(variable: Any, position: int) -> Cell:
    """``variable`` itself, or what stands for another library's.

    Known are JAX's ``Ref``, ``flax.nnx`` variables and Keras 3's, by what they can do,
    so that none of these libraries is imported.

    Raises:
      TypeError: If it is neither.
    """
    if isinstance(variable, Cell):
        return variable
    name = getattr(variable, "path", getattr(variable, "name", None))
    name = name if isinstance(name, str) else f"variable_{position}"
    if isinstance(variable, jax.Ref):

        def write_ref(array: jax.Array) -> None:
            variable[...] = array

        return ForeignVariable(name, lambda: variable[...], write_ref, fresh=True)
    if hasattr(variable, "get_value") and hasattr(variable, "set_value"):  # flax.nnx
        return ForeignVariable(name, variable.get_value, variable.set_value)
    if hasattr(variable, "assign") and hasattr(variable, "value"):  # Keras 3
        return ForeignVariable(
            name,
            lambda: jnp.asarray(variable.value),
            variable.assign,
            constraint=getattr(variable, "constraint", None),
        )
    raise TypeError(
        f"variable {position} must be a Variable, a jax Ref, or a variable of flax.nnx "
        f"or Keras 3, got {variable!r} of type {type(variable).__name__}; an array "
        "cannot be changed in place: make it an adagrad_jax.keras.Variable."
    )
