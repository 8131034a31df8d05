"""What Paddle, PyTorch and JAX promise of their Jacobians, case by case, against central differences.

`expected_error.class` is what the other library raises; this file maps it to the class that jacobia promises.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, central_differences, is_view, views

import jacobia
from jacobia import hessian, jacobian

CASES = json.loads((Path(__file__).parent / "conformance" / "cases.json").read_text())["cases"]
NAMES = {"jnp": jnp, "jax": jax, "np": np}

# Error of the other library → error of jacobia.
ERRORS = {
    "tf-strict-001": jacobia.IndependenceError,
    "tf-strict-003": jacobia.IndependenceError,
    "fn-err-empty": (TypeError, ValueError),
    "fn-err-002": ValueError,
    "fn-err-003": ValueError,
    "fn-err-004": ValueError,
    "fn-chunk-err0": ValueError,
    "fn-err-complex-in": TypeError,
    "fn-err-complex-out": TypeError,
    "jx-err-001": TypeError,
    "jx-err-002": TypeError,
    "pi-vjp-shape": ValueError,
    "pd-hessb-notsingle": ValueError,
    "pd-hessb-axisstr": TypeError,
}
# The other library refuses these; jacobia allows them, so their values are checked.
ALLOWED = {"tf-strict-vec", "pd-hess-2d", "tf-hess-err-001", "tf-hess-err-002", "ob-batchaxis1", "ob-batchaxis-1"}
MIXED_DTYPES = {"jx-012", "jx-013", "tf-jac-014"}


def build(spec, numbers, rng_base):
    """A pytree of NumPy arrays from its description; leaves are numbered in order."""
    if "tuple" in spec:
        return tuple(build(child, numbers, rng_base) for child in spec["tuple"])
    if "list" in spec:
        return [build(child, numbers, rng_base) for child in spec["list"]]
    if "dict" in spec:
        return {name: build(child, numbers, rng_base) for name, child in spec["dict"].items()}
    rng = np.random.default_rng(rng_base + next(numbers))
    if spec["init"] == "values":
        return np.asarray(spec["values"], spec["dtype"]).reshape(spec["shape"])
    draw = rng.standard_normal if spec["init"] == "normal" else rng.random
    return np.asarray(draw(spec["shape"])).astype(spec["dtype"])


def shapes(spec):
    """The expected nesting, with a shape in every leaf."""
    if spec.get("array") is not None:
        return np.empty(spec["array"])
    if "tuple" in spec:
        return tuple(shapes(child) for child in spec["tuple"])
    if "list" in spec:
        return [shapes(child) for child in spec["list"]]
    return {name: shapes(child) for name, child in spec["dict"].items()}


class Conformance:
    def __init__(self, case, number):
        self.case, self.call = case, case["call"]
        numbers = iter(range(1000))
        self.f = eval(case["function"], NAMES)
        self.args = [build(spec, numbers, 1000 * number) for spec in case["inputs"]]
        self.vectors = [build(spec, numbers, 1000 * number) for spec in self.call.get("v", [])]
        argnums = self.call.get("argnums", 0)
        self.argnums = tuple(argnums) if isinstance(argnums, list) else argnums

    def view(self):
        names = ("mode", "chunk_size", "strict", "batch_axis", "holomorphic", "has_aux")
        options = {name: self.call[name] for name in names if name in self.call}
        if self.call.get("flatten"):
            options["ravel"] = True
        transform = hessian if self.call["api"] == "hessian" else jacobian
        return transform(self.f, self.argnums, **options)(*self.args)

    def run(self):
        J = self.view()
        if self.call.get("has_aux"):
            J, aux = J
            assert_close(aux, self.f(*self.args)[1])
        if self.call["api"] == "vjp":
            return jax.tree.map(lambda view: view.vm(*self.vectors), J, is_leaf=is_view)
        if self.call["api"] == "jvp":
            return J.mv(*self.vectors)
        if "index" in self.call:
            return eval("J" + self.call["index"], NAMES, {"J": J})
        if "post" in self.call:
            return eval(self.call["post"], NAMES)(J)
        return J

    def reference(self):
        f = (lambda *args: self.f(*args)[0]) if self.call.get("has_aux") else self.f
        axis, is_hessian = self.call.get("batch_axis"), self.call["api"] == "hessian"
        if is_hessian:
            blocks = second_differences(f, *self.args, argnums=self.argnums, batched=axis is not None)
        else:
            blocks = central_differences(f, *self.args, argnums=self.argnums)
        if self.call.get("reference") == "zeros":
            blocks = jax.tree.map(np.zeros_like, blocks)
        if axis is not None:
            x, y = self.args[0], jax.eval_shape(f, *self.args)
            rows, columns = (axis % x.ndim, axis % x.ndim) if is_hessian else (axis % y.ndim, axis % x.ndim)
            inner = x.ndim if is_hessian else y.ndim
            blocks = jax.tree.map(lambda block: own_samples(block, rows, inner + columns), blocks)
        if self.call.get("flatten"):
            lead = () if axis is None else (self.args[0].shape[axis],)
            sizes = [a.size // math.prod(lead) for a in jax.tree.leaves(self.args)]
            y_size = np.prod(jax.eval_shape(f, *self.args).shape, dtype=int) // math.prod(lead)
            if is_hessian:
                table, k = jax.tree.leaves(blocks), len(sizes)
                rows = [
                    np.concatenate([b.reshape(*lead, n, -1) for b in table[i * k : (i + 1) * k]], axis=-1)
                    for i, n in enumerate(sizes)
                ]
                blocks = np.concatenate(rows, axis=-2)
            else:
                flat = [b.reshape(*lead, y_size, -1) for b in jax.tree.leaves(blocks)]
                blocks = np.concatenate(flat, axis=-1)
        if self.call["api"] == "vjp":
            (u,) = self.vectors
            return jax.tree.map(lambda b: np.tensordot(u, b, u.ndim), blocks)
        if self.call["api"] == "jvp":
            (v,) = self.vectors
            return np.tensordot(blocks, v, v.ndim)
        if "index" in self.call:
            return eval("J" + self.call["index"], NAMES, {"J": blocks})
        if "post" in self.call:
            return eval(self.call["post"], NAMES)(blocks)
        return blocks

    def expected_shapes(self):
        spec = self.call.get("post_expected") or self.case["expected"]
        return None if spec is None else shapes(spec)


def own_samples(block, first, second):
    """The blocks of each sample with itself, from a block of the whole batch; batch axis first."""
    return np.moveaxis(np.diagonal(block, axis1=first, axis2=second), -1, 0)


def second_differences(f, *args, argnums, batched):
    """The Hessian of f, or of its sum over samples: central differences of an exact gradient.

    The gradient itself is checked against central differences as well.
    """

    def number(*args):
        return jnp.sum(f(*args)) if batched else f(*args)

    holomorphic = any(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(args))
    gradient = jax.jit(jax.jacrev(number, argnums, holomorphic=holomorphic))
    assert_close(gradient(*args), central_differences(number, *args, argnums=argnums), tolerance=1e-6)
    return central_differences(gradient, *args, argnums=argnums)


PARAMETERS = [pytest.param(number, id=case["id"]) for number, case in enumerate(CASES)]


@pytest.mark.parametrize("number", PARAMETERS)
def test_conformance(number, x64):
    case = CASES[number]
    subject = Conformance(case, number)
    if case["expected_error"] and case["id"] not in ALLOWED:
        with pytest.raises(ERRORS[case["id"]]):
            subject.run()
        return
    result, reference = subject.run(), subject.reference()
    if (expected := subject.expected_shapes()) is not None:
        assert jax.tree.map(np.shape, expected) == jax.tree.map(np.shape, reference)
    assert_close(result, reference, tolerance=case["call"].get("tol"))


def test_every_error_case_is_given_a_class_of_this_library():
    errors = {c["id"] for c in CASES if c["expected_error"]}
    assert errors == set(ERRORS) | ALLOWED


@pytest.mark.parametrize("number", [n for n, case in enumerate(CASES) if case["id"] in MIXED_DTYPES])
def test_a_block_has_the_wider_dtype_of_its_input_and_output(number, x64):
    subject = Conformance(CASES[number], number)
    J = subject.view()
    xs = jax.tree.leaves(subject.args)
    ys = jax.tree.leaves(jax.eval_shape(subject.f, *subject.args))
    expected = [jnp.result_type(x, y) for y in ys for x in xs]
    assert [view.dtype for view in views(J)] == expected
    assert [np.asarray(view).dtype for view in views(J)] == expected
