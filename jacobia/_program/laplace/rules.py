"""How one operation carries derivatives along directions and a Laplacian, by how it is wired.

For z = g(a): the legs go through the derivative of g, and the Laplacian is g'(a) applied to the Laplacian of a, plus
the sum over the directions of g''(a)[P_r, Q_r]. An operation without a rule here is differentiated twice by JAX.
Knows single operations. Knows no programs inside operations.

References:
  Li, Ye, Jiang, Wang, Yu, Chen, Chen, Hu, Luo, "A computational framework for neural network-based variational Monte
    Carlo with Forward Laplacian", Nature Machine Intelligence 6 (2024), doi:10.1038/s42256-024-00794-x.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import bind, rule_of_jax
from jacobia._program.laplace.carried import Carried, added, pushed, written_out
from jacobia._program.moves import MOVES
from jacobia._program.wiring import ALL, BEHIND, EACH, wiring


def through(eqn: Any, ins: list[Carried], count: int) -> list[Carried]:
    """The results of one equation; `count` is D."""
    moving = [k for k, z in enumerate(ins) if z.moves]
    if not moving:
        return [Carried(v) for v in bind(eqn, *(z.value for z in ins))]
    how, name = wiring(eqn), eqn.primitive.name
    # Integers and booleans have no derivatives, and `stop_gradient` says that there is none.
    if name == "stop_gradient" or not any(map(_is_inexact, eqn.outvars)):
        return [Carried(v) for v in bind(eqn, *(z.value for z in ins))]
    alone = any(ins[k].owner is not None for k in moving)
    if alone and name in MOVES and (made := _moved(eqn, ins, moving)) is not None:
        return made
    if how.element and not (how.over_reals and _is_complex(ins, moving)) and len(eqn.outvars) == 1:
        same = _share_owners(_of(ins, moving))
        shapes = {jnp.shape(z.value) for z in _of(ins, moving)}
        if shapes == {eqn.outvars[0].aval.shape}:
            own = ins if same else _all_out(ins, count)
            linear = _linear(eqn, moving)
            return [_along(eqn, own, moving, linear) if linear else _element(eqn, own, moving)]
    if is_determinant(eqn) and not _is_complex(ins, moving):
        return _determinant(eqn, written_out(ins[0], count))
    if name == "dot_general" and alone and (made := _of_owners(eqn, ins, moving, count)) is not None:
        return [made]
    if name == "reduce_sum" and alone:
        return [_summed(eqn, ins[0], count)]
    ins = _all_out(ins, count)
    linear = _linear(eqn, moving)
    if linear and len(eqn.outvars) == 1:
        return [_along(eqn, ins, moving, linear)]
    if how.linear is EACH and len(moving) == 2 and moving == [0, 1]:
        return [_product(eqn, ins)]
    return anything(lambda *a: bind(eqn, *a), ins, moving)


def _of(ins: Sequence, places: Sequence[int]) -> list:
    return [ins[k] for k in places]


def _share_owners(zs: Sequence[Carried]) -> bool:
    first = zs[0].owner
    return first is not None and all(z.owner is not None and np.array_equal(z.owner, first) for z in zs)


def _is_inexact(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _is_complex(ins: Sequence[Carried], moving: Sequence[int]) -> bool:
    return any(jnp.iscomplexobj(ins[k].value) for k in moving)


def _all_out(ins: list[Carried], count: int) -> list[Carried]:
    return [written_out(z, count) for z in ins]


def _linear(eqn: Any, moving: Sequence[int]) -> Sequence[int]:
    # The operands in which the operation is jointly linear, if these include all that move; (): they do not.
    given, number = wiring(eqn).linear, len(eqn.invars)
    if given is EACH:
        return moving if len(moving) == 1 and moving[0] < 2 else ()
    places = range(number) if given is ALL else range(1, number) if given is BEHIND else given
    return places if set(moving) <= set(places) else ()  # pyright: ignore


def _along(eqn: Any, ins: list[Carried], moving: Sequence[int], linear: Sequence[int]) -> Carried:
    # Linear in the operands that move: the Laplacian is pushed as one more tangent.
    def push(*tangents: Any) -> Any:
        given = dict(zip(moving, tangents, strict=True))
        return bind(eqn, *(given.get(k, _still(z.value, k in linear)) for k, z in enumerate(ins)))[0]

    zs, (value,) = _of(ins, moving), bind(eqn, *(z.value for z in ins))
    legs = _contracted(eqn, ins, moving) or pushed(push, [z.legs for z in zs])
    laplacian = None
    if any(z.laplacian is not None for z in zs):
        laplacian = push(*(jnp.zeros_like(z.value) if z.laplacian is None else z.laplacian for z in zs))
    return Carried(value, legs, zs[0].owner, laplacian, all(z.fixed for z in zs))


def _still(value: Any, linear: bool) -> Any:
    return jnp.zeros_like(value) if linear else value


def _contracted(eqn: Any, ins: list[Carried], moving: Sequence[int]) -> tuple:
    # A product with a factor that does not move: one matrix product for all directions, whose axis stays in front.
    if eqn.primitive.name != "dot_general" or len(moving) != 1:
        return ()
    contracted, batched = eqn.params["dimension_numbers"]
    side = moving[0]
    other = ins[1 - side].value
    if batched[0] or (
        side == 1 and jnp.ndim(ins[1].value) > len(contracted[1]) and jnp.ndim(other) > len(contracted[0])
    ):
        return ()
    numbers = (tuple(a + 1 for a in contracted[side]), tuple(contracted[1 - side])), ((), ())
    one = eqn.replace(params=eqn.params | {"dimension_numbers": numbers})
    return tuple(bind(one, leg, other)[0] for leg in ins[side].legs)


def _of_owners(eqn: Any, ins: list[Carried], moving: Sequence[int], count: int) -> Carried | None:
    # A product over one axis along which element d belongs to input d: leg d is a column of the other factor, scaled.
    contracted, batched = eqn.params["dimension_numbers"]
    if len(moving) != 1 or batched[0] or len(contracted[0]) != 1:
        return None
    side, z = moving[0], ins[moving[0]]
    (axis,), (across,) = contracted[side], contracted[1 - side]
    owner, other = z.owner, ins[1 - side].value
    assert owner is not None
    lines = np.moveaxis(owner, axis, 0).reshape(owner.shape[axis], -1)
    if len(lines) != count or (lines != np.arange(count)[:, None]).any():
        return None
    mine, theirs = jnp.moveaxis(z.legs[0][0], axis, 0), jnp.moveaxis(other, across, 0)
    ahead, behind = (mine, theirs) if side == 0 else (theirs, mine)
    shape = ahead.shape + (1,) * (behind.ndim - 1)
    leg = (ahead.reshape(shape) * jnp.expand_dims(behind, tuple(range(1, ahead.ndim)))).astype(
        eqn.outvars[0].aval.dtype
    )

    def push(t: Any) -> Any:
        return bind(eqn, *((t, other) if side == 0 else (other, t)))[0]

    return Carried(push(z.value), (leg,), None, None if z.laplacian is None else push(z.laplacian), z.fixed)


def _summed(eqn: Any, z: Carried, count: int) -> Carried:
    # Each element of a sum depends on as many inputs as it has terms: only these terms are put into the legs.
    def push(t: Any) -> Any:
        return bind(eqn, t)[0]

    value, axes, owner = push(z.value), eqn.params["axes"], z.owner
    assert owner is not None
    kept = [k for k in range(owner.ndim) if k not in axes]
    to_front = [*kept, *(k for k in range(owner.ndim) if k in axes)]
    size = math.prod(owner.shape[k] for k in kept)
    rows = owner.transpose(to_front).reshape(size, -1)
    terms = jnp.transpose(z.legs[0][0], to_front).reshape(size, -1)
    places = np.where(rows < 0, count, rows)  # an element of no input is dropped
    if np.array_equal(places, np.arange(count)[None]):
        leg = terms.T
    else:
        leg = jnp.zeros((count, size), terms.dtype).at[places, np.arange(size)[:, None]].add(terms, mode="drop")
    leg = leg.reshape(count, *value.shape).astype(value.dtype)
    return Carried(value, (leg,), None, None if z.laplacian is None else push(z.laplacian), z.fixed)


def _moved(eqn: Any, ins: list[Carried], moving: Sequence[int]) -> list[Carried] | None:
    # Elements that are moved take their owners along.
    move = MOVES[eqn.primitive.name]
    if not move.linear or len(eqn.outvars) != 1 or any(ins[k].owner is None for k in moving):
        return None
    owners = [None if z.owner is None else z.owner[None] for z in ins]
    found = move.numbers(eqn, owners, -1)[0]
    if len(found) != 1:
        return None
    made = _along(eqn, ins, moving, range(len(ins)))
    return [made._replace(owner=found[0])]


def _element(eqn: Any, ins: list[Carried], moving: Sequence[int]) -> Carried:
    # An elementwise operation: its first and second derivatives are arrays of the shape of the operands.
    zs = _of(ins, moving)

    def g(*changed: Any) -> Any:
        given = dict(zip(moving, changed, strict=True))
        return bind(eqn, *(given.get(k, z.value) for k, z in enumerate(ins)))[0]

    at, ones = [z.value for z in zs], [jnp.ones_like(z.value) for z in zs]

    def by(k: int) -> Callable:
        seeds = [one if j == k else jnp.zeros_like(one) for j, one in enumerate(ones)]
        return lambda *a: jax.jvp(g, a, tuple(seeds))[1]

    first = [by(k)(*at) for k in range(len(zs))]
    each = zip(*(z.legs for z in zs), strict=True)
    legs = tuple(added([d * leg for d, leg in zip(first, own, strict=True)]) for own in each)
    terms = [d * z.laplacian for d, z in zip(first, zs, strict=True) if z.laplacian is not None]
    for k, z in enumerate(zs):
        for j in range(k, len(zs)):
            if k == j and wiring(eqn).how == "product":  # linear in each
                continue
            seeds = tuple(one if i == j else jnp.zeros_like(one) for i, one in enumerate(ones))
            second = jax.jvp(by(k), tuple(at), seeds)[1]
            terms.append(second * _inner(z.legs, zs[j].legs) * (1 if k == j else 2))
    return Carried(g(*at), legs, zs[0].owner, added(terms))


def _inner(a: tuple, b: tuple) -> Any:
    # For each element the sum of products over the directions; with two legs P, Q the mean of both orders.
    total = jnp.sum(a[0] * b[-1], axis=0)
    return total if len(a) == 1 or a is b else (total + jnp.sum(a[-1] * b[0], axis=0)) / 2


def _product(eqn: Any, ins: list[Carried]) -> Carried:
    # A bilinear operation, both of whose factors move.
    a, b = ins[:2]
    rest = [z.value for z in ins[2:]]

    def times(x: Any, y: Any) -> Any:
        return bind(eqn, x, y, *rest)[0]

    def summed(p: Any, q: Any) -> Any:
        if eqn.primitive.name != "dot_general":
            return jnp.sum(jax.vmap(times)(p, q), axis=0)
        contracted, batched = eqn.params["dimension_numbers"]
        own = [tuple((*(x + 1 for x in axes), 0)) for axes in contracted]
        numbers = tuple(own), tuple(tuple(x + 1 for x in axes) for axes in batched)
        return bind(eqn.replace(params=eqn.params | {"dimension_numbers": numbers}), p, q)[0]

    push = jax.vmap(lambda p, q: times(p, b.value) + times(a.value, q))
    legs = tuple(push(p, q) for p, q in zip(a.legs, b.legs, strict=True))
    if len(a.legs) == 1:
        both = [2 * summed(a.legs[0], b.legs[0])]
    else:
        both = [summed(a.legs[0], b.legs[1]), summed(a.legs[1], b.legs[0])]
    terms = [None if a.laplacian is None else times(a.laplacian, b.value)]
    terms += [None if b.laplacian is None else times(a.value, b.laplacian), *both]
    return Carried(times(a.value, b.value), legs, None, added(terms))


def is_determinant(eqn: Any) -> bool:
    """Whether an equation is a call of `jnp.linalg.slogdet`, with the derivative rule that JAX has for it."""
    if eqn.params.get("name") != "slogdet" or "jaxpr" not in eqn.params or len(eqn.invars) != 1:
        return False
    inner = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"]).eqns
    return len(inner) == 1 and inner[0].primitive.name == "custom_jvp_call" and rule_of_jax(inner[0])


def _determinant(eqn: Any, z: Carried) -> list[Carried]:
    # d log|A| = tr A⁻¹ dA and d² log|A| = tr A⁻¹ d²A - tr A⁻¹ dA A⁻¹ dA: one factorization for all directions.
    sign, value = bind(eqn, z.value)
    inverse = jnp.linalg.inv(z.value)
    solved = tuple(inverse @ leg for leg in z.legs)
    second = -jnp.einsum("r...ij,r...ji->...", solved[0], solved[-1])
    if z.laplacian is not None:
        second += jnp.trace(inverse @ z.laplacian, axis1=-2, axis2=-1)
    legs = tuple(jnp.trace(b, axis1=-2, axis2=-1) for b in solved)
    return [Carried(sign), Carried(value, legs, None, second)]


def anything(g: Callable, ins: list[Carried], moving: Sequence[int]) -> list[Carried]:
    """The results of any function g, by differentiating it twice along every direction."""
    zs = _of(ins, moving)

    def inexact(*changed: Any) -> list:
        given = dict(zip(moving, changed, strict=True))
        outs = g(*(given.get(k, z.value) for k, z in enumerate(ins)))
        return [o for o in outs if jnp.issubdtype(o.dtype, jnp.inexact)]

    at = tuple(z.value for z in zs)

    def along(p: tuple, q: tuple) -> tuple[list, list]:
        return jax.jvp(lambda *a: jax.jvp(inexact, a, p)[1], at, q)

    first, last = tuple(z.legs[0] for z in zs), tuple(z.legs[-1] for z in zs)
    pushed_first, second = jax.vmap(along)(first, last)
    all_legs = [pushed_first]
    if len(zs[0].legs) == 2:
        all_legs.append(jax.vmap(lambda *q: jax.jvp(inexact, at, q)[1])(*last))
    changes = tuple(jnp.zeros_like(z.value) if z.laplacian is None else z.laplacian for z in zs)
    moved = jax.jvp(inexact, at, changes)[1] if any(z.laplacian is not None for z in zs) else [0] * len(second)
    made = iter(zip(zip(*all_legs, strict=True), second, moved, strict=True))
    out = []
    for value in g(*(z.value for z in ins)):
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            out.append(Carried(value))
            continue
        legs, c, m = next(made)
        out.append(Carried(value, legs, None, jnp.sum(c, axis=0) + m))
    return out
