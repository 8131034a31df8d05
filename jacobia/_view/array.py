"""Views as arrays: operators, conversions, and every method and attribute of `jax.Array`.

Knows a shape, a dtype and `self[...]`. Knows nothing of Jacobians. Metadata (shape, dtype and what follows from them)
never computes; everything else works on the whole matrix.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.given import as_array
from jacobia._compat import asked_by_matmul
from jacobia._store.keys import Axes, Part, concrete, shape_of
from jacobia._words import array_word


def _unary(op: Callable) -> Callable:
    return lambda self: op(self[...])


def _binary(op: Callable) -> Callable:
    def binary(self: "ArrayLike", other: Any) -> Any:
        return _applied(op, self[...], other[...] if isinstance(other, ArrayLike) else other, other)

    return binary


def _reflected(op: Callable) -> Callable:
    return lambda self, other: _applied(op, other, self[...], other)


def _applied(op: Callable, left: Any, right: Any, other: Any) -> Any:
    try:
        return op(left, right)
    except TypeError as error:
        if not hasattr(other, "toarray"):
            raise
        raise _no_operand(op, other) from error


def _method(name: str) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self[...], name)(*args, **kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"The same as `J[...].{name}(...)`: computes the whole matrix."
    return method


def factor(other: Any) -> jax.Array:
    """The other factor of a product, as an array. A sparse matrix of SciPy or JAX is made dense."""
    if not isinstance(other, ArrayLike):
        for name in ("toarray", "todense"):
            if hasattr(other, name):
                return jnp.asarray(getattr(other, name)())
    return as_array("J @ v", other)


def not_traced(name: str) -> AttributeError:
    """The error for an attribute that a traced array does not have."""
    return AttributeError(
        f"J.{name}: expected a view at arrays, got one that is traced, which has no {name} yet. Ask for it outside of "
        "transformations.",
        name=name,
    )


def _no_operand(op: Callable, other: Any) -> TypeError:
    # SciPy cannot add a dense JAX array to a sparse matrix.
    return TypeError(
        f"{op.__name__}(J, S): expected an array, got {type(other).__name__}. Write J.to_scipy() for J, which is "
        "sparse then, or S.toarray() for S."
    )


class ArrayLike:
    """An object that acts as an array, given `shape`, `dtype` and `self[...]`.

    Comparison is elementwise, so there is no hash.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, key: Any) -> jax.Array:
        raise NotImplementedError

    # Metadata: never computes

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """The number of axes. Never computes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries. Never computes."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one entry. Never computes."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole matrix once computed. The remembered rows and columns take `J.stats.nbytes`."""
        return self.size * self.itemsize

    @property
    def __numpy_dtype__(self) -> Any:
        return self.dtype

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len(J): expected at least one axis, got a 0-D view. Write J[...] or J[()].")
        return self.shape[0]

    def __iter__(self) -> Iterator[jax.Array]:
        return (self[k] for k in range(len(self)))

    def __format__(self, spec: str) -> str:
        return format(self[...], spec) if spec else repr(self)

    # Attributes that need the whole matrix: it is read when an attribute's result is used

    @property
    def T(self) -> "ArrayLike":
        """All axes reversed, as in NumPy."""
        return Derived(self.shape[::-1], self.dtype, lambda key: jnp.transpose(self[...])[key])

    @property
    def mT(self) -> "ArrayLike":
        """The last two axes swapped, as in NumPy."""
        if self.ndim < 2:
            raise ValueError(f"J.mT: expected at least two axes, got shape {self.shape}. Write J.T.")
        *lead, m, n = self.shape
        return Derived((*lead, n, m), self.dtype, lambda key: jnp.swapaxes(self[...], -1, -2)[key])

    @property
    def real(self) -> "ArrayLike":
        """The real part. For a real view, the view itself."""
        return self._part(jnp.real) if jnp.issubdtype(self.dtype, jnp.complexfloating) else self

    @property
    def imag(self) -> "ArrayLike":
        """The imaginary part."""
        return self._part(jnp.imag)

    def _part(self, op: Callable) -> "ArrayLike":
        return Derived(self.shape, np.zeros((), self.dtype).real.dtype, lambda key: op(self[key]))

    @property
    def flat(self) -> "ArrayLike":
        """The entries as one axis, in row-major order."""
        return Derived((self.size,), self.dtype, lambda key: self[...].reshape(-1)[key])

    @property
    def at(self) -> Any:
        """`J.at[key].set(...)` and the other updates of `jax.Array.at`.

        They return an array: the whole matrix with the update.
        """
        return _At(self)

    @property
    def addressable_shards(self) -> Sequence:
        """The shards of the whole matrix that are on devices of this process."""
        return _Shards(self, "addressable_shards")

    @property
    def global_shards(self) -> Sequence:
        """The shards of the whole matrix on all devices."""
        return _Shards(self, "global_shards")

    # Conversion

    def __jax_array__(self) -> jax.Array:
        return NotImplemented if asked_by_matmul() else self[...]  # `u @ J` is `J.__rmatmul__(u)`, without the matrix

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...]).__array__(dtype) if copy is not True else np.array(self[...], dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # NumPy calls this for `array op J`. `array @ J` is computed without the matrix.
        if ufunc is np.matmul and method == "__call__" and len(inputs) == 2 and not kwargs:
            left, right = inputs
            return left.__matmul__(right) if isinstance(left, ArrayLike) else right.__rmatmul__(left)
        arrays = [i[...] if isinstance(i, ArrayLike) else i for i in inputs]
        twin = getattr(jnp, ufunc.__name__, None)
        if method == "__call__" and twin is not None and not kwargs:
            return twin(*(jnp.asarray(a) for a in arrays))
        return getattr(ufunc, method)(*(np.asarray(a) for a in arrays), **kwargs)

    # Operators

    def __matmul__(self, other: Any) -> jax.Array:
        return self[...] @ factor(other)

    def __rmatmul__(self, other: Any) -> jax.Array:
        return factor(other) @ self[...]

    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(abs)
    __bool__ = _unary(bool)
    __int__ = _unary(int)
    __float__ = _unary(float)
    __complex__ = _unary(complex)

    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _binary(divmod), _reflected(divmod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)

    __eq__ = _binary(operator.eq)  # type: ignore[assignment]
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]
    __lt__, __le__ = _binary(operator.lt), _binary(operator.le)
    __gt__, __ge__ = _binary(operator.gt), _binary(operator.ge)

    # Products under the names that SciPy calls (`aslinearoperator`, `gmres`, `lsqr`, `svds`). They need no matrix, and
    # return writable NumPy arrays, since SciPy's solvers write into them.

    def matvec(self, v: Any) -> np.ndarray:
        """The product `J @ v` as a NumPy array, for v of shape `(N,)` or `(N, K)`."""
        return np.array(self @ v)

    def rmatvec(self, u: Any) -> np.ndarray:
        """The product `J.conj().T @ u` as a NumPy array, for u of shape `(M,)` or `(M, K)`."""
        # Called by name: `@` with a JAX array on the left would first convert J to an array, the whole matrix.
        return np.array(jnp.conj(self.__rmatmul__(jnp.conj(jnp.asarray(u)).T).T))

    matmat, rmatmat = matvec, rmatvec

    # Immutable

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"J.{name} = ...: expected no assignment, got one; views are immutable. Work on the array J[...]."
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(
            f"del J.{name}: expected no deletion, got one; views are immutable. J.clear() forgets what is known."
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "J[...] = ...: expected no assignment, got one; views are immutable. Write J.at[...].set(...), which gives "
            "an array, or change a copy, numpy.array(J)."
        )

    def __delitem__(self, key: Any) -> None:
        raise TypeError(
            "del J[...]: expected no deletion, got one; views are immutable. Write J.clear() to forget what is known, "
            "or numpy.delete(J, k, axis) for an array without some rows or columns."
        )

    _tells = "J[...] is the array, and J.stats, J.plan and J.explain() tell of the view"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            of_arrays = getattr(_array_type(), name, None)
            if callable(of_arrays):
                return _method(name).__get__(self)
            if isinstance(getattr(type(self), name, None), property):  # the property itself raised AttributeError
                raise not_traced(name)
            if of_arrays is not None and name not in INSTEAD:
                raise AttributeError(
                    f"J.{name}: expected an attribute of a lazy view, got one of an array in memory. "
                    f"Write J[...].{name}.",
                    name=name,
                )
            hint = INSTEAD.get(name, self._tells)
            raise AttributeError(
                f"J.{name}: expected an attribute of a lazy view or of jax.Array, got {name!r}. "
                f"{hint.format(name=name)}.",
                name=name,
                obj=self,
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


# The methods of jax.Array, and three that only concrete arrays have. Not `__array_namespace__`: SciPy would take a view
# for an array of the array API, and convert it where it needs products only.
for _name in (*dir(jax.Array), "tolist", "__dlpack__", "__dlpack_device__"):
    _skip = _name == "__array_namespace__" or (_name.startswith("_") and not _name.startswith("__"))
    _known = any(_name in vars(c) for c in ArrayLike.__mro__)
    if not (_skip or _known or isinstance(getattr(jax.Array, _name, None), property)):
        setattr(ArrayLike, _name, _method(_name))


class Derived(ArrayLike):
    """A lazy array that is computed from the entries of a view when it is read."""

    __slots__ = ("_dtype", "_read", "_shape")
    _tells = "J[...] is the array. J.plot(), J.stats, J.plan and J.explain() are those of the view that J is a part of"

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[Any], jax.Array]):
        for name, value in (("_shape", shape), ("_dtype", np.dtype(dtype)), ("_read", read)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> Any:
        return self._dtype

    def __getitem__(self, key: Any) -> jax.Array:
        items = concrete(key)
        if items is None:  # traced indices wrap and clamp, as in jnp
            return self._read(key)
        shape_of(items, Axes([Part("rows", self.shape)]))  # raises IndexError: jnp would clamp
        return self._read(items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({array_word(self.dtype, self.shape)})"


class _Shards(Sequence):
    def __init__(self, view: ArrayLike, name: str):
        self._view, self._name = view, name

    def __getitem__(self, k: Any) -> Any:
        return getattr(self._view[...], self._name)[k]

    def __len__(self) -> int:
        return len(getattr(self._view[...], self._name))


class _At:
    __slots__ = ("_view",)

    def __init__(self, view: ArrayLike):
        self._view = view

    def __getitem__(self, key: Any) -> Any:
        return self._view[...].at[key]


@cache
def _array_type() -> type:
    with jax.ensure_compile_time_eval():
        return type(jax.device_put(np.zeros(())))  # compiles nothing


# A name that other libraries use → what to write instead.
INSTEAD = {
    name: hint
    for names, hint in (
        ("numpy toarray todense to_dense dense values to_numpy to_array A cpu", "Write numpy.asarray(J)"),
        ("compute materialize evaluate data array detach eval get read", "Write J[...]"),
        ("row rows getrow iloc loc head tail", "Write J[i], or J[[i, k]] for several"),
        ("col cols column columns getcol", "Write J[:, j]"),
        ("jvp pushforward hvp", "Write J.mv(v)"),
        ("vjp pullback rmv", "Write J.vm(u)"),
        ("H adjoint", "Write J.T.conj()"),
        ("transposed t", "Write J.T"),
        ("matmul apply", "Write J @ v"),
        ("in_structure out_structure as_matrix", "Write J.as_lineax(), which is an operator of lineax"),
        ("set update fill append resize", "Write J.at[...].set(...), which gives an array"),
        ("backward grad gradient jacobian", "J is the derivative: write J[...] for all of it, J.vm(u) for u @ J"),
        ("hessian", "Write hessian(f)(x)"),
        ("to_pandas DataFrame", "Write pandas.DataFrame(numpy.asarray(J))"),
        ("diag", "Write J.diagonal()"),
        ("nnz indices indptr", "Write J.pattern, or J.to_scipy()"),
        ("tocsr tocsc tocoo to_csr to_csc to_coo to_sparse sparse", "Write J.to_scipy(format), or J.to_bcoo()"),
        ("det inv pinv norm svd eig eigh eigvals eigvalsh cholesky qr", "Write jnp.linalg.{name}(J)"),
        ("solve lstsq", "Write jnp.linalg.{name}(J, b)"),
        ("I inverse", "Write jnp.linalg.inv(J)"),
        ("rank", "Write jnp.linalg.matrix_rank(J)"),
    )
    for name in names.split()
}
