"""The table of operations: each operation is named once, in one table of the package, and its entry is true."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia._program import wiring as _wiring
from jacobia._program.moves import MOVES
from jacobia._program.wiring import ALL, BEHIND, EACH, wiring

PACKAGE = Path(_wiring.__file__).parents[1]
NAMES = {name for _, names in _wiring._LINES for name in names.split()} | set(MOVES)
# Not tables: words for people, and names that are Python's, NumPy's or those of ways to wire an operation.
WORDS = {
    "_program/along.py", "_program/columns/rules.py", "_program/numbers.py", "_call/arguments.py", "_transform.py",
    "_view/array.py",
}  # fmt: skip


def tables(tree):
    """Collections of constants in a file, as sets of names; a text that is mostly names is one too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield {k.value for k in node.keys if isinstance(k, ast.Constant)}
        elif isinstance(node, (ast.Set, ast.List, ast.Tuple)):
            yield {k.value for k in node.elts if isinstance(k, ast.Constant)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = set(node.value.split())
            yield words if 2 * len(words & NAMES) > len(words) else set()


def listed(tree, least=3):
    """Names of operations that stand in a collection of at least so many."""
    return [own for own in (t & NAMES for t in tables(tree)) if len(own) >= least]


def test_no_operation_stands_in_two_tables():
    seen = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in WORDS:
            continue
        for own in listed(ast.parse(path.read_text(encoding="utf-8"))):
            assert name in ("_program/wiring.py", "_program/moves.py"), f"{name} lists {sorted(own)}"
            for operation in own:
                assert seen.setdefault(operation, name) == name, operation


@pytest.mark.parametrize(
    "text", ["A = {'add', 'sub', 'mul'}", "A = 'add sub mul'", "A = {'add': 1, 'sub': 2, 'mul': 3}"]
)
def test_a_table_is_found(text):
    assert listed(ast.parse(text)) == [{"add", "sub", "mul"}]
    assert not listed(ast.parse(text.replace("mul", "mull")))


def test_each_operation_is_named_once():
    names = [name for _, names in _wiring._LINES for name in names.split()]
    assert len(names) == len(set(names))
    assert not set(names) & set(MOVES)


RNG = np.random.default_rng(3)
V, W, M = (RNG.uniform(0.5, 2, s).astype(np.float32) for s in ((4,), (4,), (4, 4)))
C = (V + 1j * W).astype(np.complex64)
LOWER = (np.tril(M) + 4 * np.eye(4)).astype(np.float32)
INDEX = np.array([[2], [0]], np.int32)
HERE = lax.ScatterDimensionNumbers((), (0,), (0,))
WINDOW = dict(window_dimensions=(2,), window_strides=(1,), padding=((0, 0),), base_dilation=(1,), window_dilation=(1,))


def scattered(write):
    return lambda x, u: write(x, INDEX, u, HERE)


# By operation: a function of one equation, and its operands.
CASES = {
    "neg": (lax.neg, V), "complex": (lax.complex, V, W), 
    "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 23), V),
    "conj": (lax.conj, C), "real": (lax.real, C), "imag": (lax.imag, C), "abs": (lax.abs, V), "sin": (lax.sin, V),
    "convert_element_type": (lambda x: lax.convert_element_type(x, np.float16), V), "pow": (lax.pow, V, W),
    "add": (lax.add, V, W), "sub": (lax.sub, V, W), "mul": (lax.mul, V, W), "div": (lax.div, V, W),
    "select_n": (lambda x, y: lax.select_n(V > 1, x, y), V, W), "max": (lax.max, V, W),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (2, 4), (1,)), V),
    "reshape": (lambda x: lax.reshape(x, (2, 2)), V),
    "transpose": (lambda x: lax.transpose(x, (1, 0)), M), "squeeze": (lambda x: lax.squeeze(x, (1,)), M[:, :1]),
    "rev": (lambda x: lax.rev(x, (0,)), V), "slice": (lambda x: lax.slice(x, (1,), (3,)), V),
    "pad": (lambda x, y: lax.pad(x, y, ((1, 1, 0),)), V, W[0]),
    "concatenate": (lambda x, y: lax.concatenate([x, y], 0), V, W),
    "split": (lambda x: lax.split(x, (1, 3)), V),
    "gather": (lambda x: lax.gather(x, INDEX, lax.GatherDimensionNumbers((), (0,), (0,)), (1,)), V),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (np.int32(1),), (2,)), V),
    "dynamic_update_slice": (lambda x, u: lax.dynamic_update_slice(x, u, (np.int32(1),)), V, W[:2]),
    "scatter": (scattered(lax.scatter), V, W[:2]), "scatter-add": (scattered(lax.scatter_add), V, W[:2]),
    "scatter-sub": (scattered(lax.scatter_sub), V, W[:2]), "scatter-min": (scattered(lax.scatter_min), V, W[:2]),
    "scatter-mul": (lambda x: lax.scatter_mul(x, INDEX, W[:2], HERE), V),
    "reduce_sum": (lambda x: lax.reduce_sum_p.bind(x, axes=(0,), out_sharding=None), M),
    "reduce_max": (lambda x: lax.reduce_max(x, (0,)), M), "cumsum": (lax.cumsum, V), "cumprod": (lax.cumprod, V),
    "sort": (lax.sort, V), "reduce_window_sum": (lambda x: lax.reduce_window_sum_p.bind(x, **WINDOW), V),
    "dot_general": (lambda x, y: lax.dot_general(x, y, (((1,), (0,)), ((), ()))), M, V),
    "conv_general_dilated": (lambda x, y: lax.conv(x, y, (1,), "VALID"), M[None], np.ones((4, 4, 2), np.float32)),
    "triangular_solve": (lambda b: lax.linalg.triangular_solve(LOWER, b, left_side=True, lower=True), M),
    "cholesky": (lambda x: lax.linalg.cholesky(x, symmetrize_input=False), LOWER @ LOWER.T),
    "optimization_barrier": (lax.optimization_barrier, V),
}  # fmt: skip


def equation(name):
    f, *args = CASES[name]
    jaxpr = jax.make_jaxpr(f)(*args)
    found = [eqn for eqn in jaxpr.eqns if eqn.primitive.name.replace("_", "-") == name.replace("_", "-")]
    assert len(found) == 1, jaxpr
    return found[0], f, args


def is_linear(f, args, which, tries=5):
    """Whether f is linear in these arguments together: f(a + 2 b) = f(a) + 2 f(b), the others as they are."""
    random = np.random.default_rng(0)
    for _ in range(tries):
        moved = [(4 * random.normal(size=a.shape)).astype(a.dtype) if k in which else a for k, a in enumerate(args)]
        both = [a + 2 * m if k in which else a for k, (a, m) in enumerate(zip(args, moved, strict=True))]
        outs = [[np.asarray(a, np.complex64) for a in jax.tree.leaves(f(*given))] for given in (both, args, moved)]
        if not all(np.allclose(a, b + 2 * c, rtol=1e-2, atol=1e-2) for a, b, c in zip(*outs, strict=True)):
            return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_linear_in_what_the_table_says_and_in_nothing_else(name):
    eqn, f, args = equation(name)
    wired = wiring(eqn)
    every = range(len(args))
    if wired.linear is EACH:
        assert all(is_linear(f, args, {k}) for k in every) and not is_linear(f, args, set(every))
    elif wired.linear in (ALL, BEHIND) or wired.how == "pass":
        assert is_linear(f, args, set(every))
    elif wired.linear == (0,) and name == "div":
        assert is_linear(f, args, {0}) and not is_linear(f, args, {1})
    elif wired.linear:
        assert is_linear(f, args, set(every))  # the other operands are given
    else:
        assert not is_linear(f, args, set(every))


@pytest.mark.parametrize("name", CASES)
def test_what_is_wired_element_by_element_is(name):
    eqn, f, args = equation(name)
    if not wiring(eqn).element:
        return
    outs = f(*args), f(*(a[::-1] for a in args)) if name != "select_n" else lax.select_n(V[::-1] > 1, V[::-1], W[::-1])
    np.testing.assert_allclose(outs[0][::-1], outs[1], rtol=1e-6)


def test_what_is_not_in_the_table_may_do_anything():
    jaxpr = jax.make_jaxpr(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((4,), jnp.float32), x))(V)
    assert wiring(jaxpr.eqns[0]) == _wiring.UNKNOWN and not wiring(jaxpr.eqns[0]).linear
