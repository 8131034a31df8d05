"""Operations that index, branch and repeat: (generator of constants, array, array) → array."""

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import axis_of, constant, integers, matrix, ranked, some, vector

# Indices


def gathered(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    mode = str(rng.choice(["clip", "fill", "wrap"]))
    return jnp.take(a, rng.integers(-1, a.shape[axis] + 2, rng.integers(1, 6)), axis=axis, mode=mode, fill_value=0)


def gathered_by_value(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    return jnp.take(a, integers(b, a.shape[axis])[:5], axis=axis)


def gathered_pairs(rng, a, b):
    m = matrix(a)
    return m[rng.integers(0, m.shape[0], 4), rng.integers(0, m.shape[1], 4)]


def masked(rng, a, b):
    mask = rng.random(a.shape) < 0.6
    return a[mask] if a.ndim else a


def taken_along(rng, a, b):
    m = matrix(a)
    return jnp.take_along_axis(m, rng.integers(0, m.shape[1], (m.shape[0], 2)), axis=1)


def updated_at(rng, a, b):
    v = vector(a)
    count = min(v.size, vector(b).size, 3)
    places = rng.permutation(v.size)[:count]
    name = str(rng.choice(["set", "add", "multiply", "min", "max"]))
    return getattr(v.at[places], name)(vector(b)[:count], unique_indices=bool(rng.random() < 0.5) or name == "multiply")


def added_at(rng, a, b):
    v, w = vector(a), vector(b)
    return v.at[rng.integers(0, v.size + 1, w.size)].add(w, mode="drop")


def added_at_values(rng, a, b):
    v = vector(a)
    return v.at[integers(b, v.size)].add(jnp.sin(vector(b)))


def set_at_value(rng, a, b):
    v = vector(a)
    return v.at[integers(b, v.size)[0]].set(vector(b)[-1])


def set_rows(rng, a, b):
    m = matrix(a)
    return m.at[int(rng.integers(m.shape[0]))].set(some(b, m.shape[1] if rng.random() < 0.7 else 1))


def part_by_value(rng, a, b):
    v = vector(a)
    return lax.dynamic_slice(v, (jnp.floor(3 * vector(b)[0]).astype(int),), (max(1, v.size - 2),))


def part_updated(rng, a, b):
    m = matrix(a)
    start = (integers(b, 3)[0], int(rng.integers(2))) if rng.random() < 0.5 else (1, 0)
    return lax.dynamic_update_slice(m, jnp.sin(some(b, 1, min(2, m.shape[1]))), start)


def diagonals(rng, a, b):
    v = vector(a)[:3]
    return jnp.diag(v) if rng.random() < 0.5 else jnp.diagonal(some(a, 3, 3))


def triangles(rng, a, b):
    return (jnp.triu if rng.random() < 0.5 else jnp.tril)(matrix(a), int(rng.integers(-1, 2)))


# Control flow


def scanned(rng, a, b):
    last, every = lax.scan(
        lambda c, v: (jnp.sin(c) + v, c * v), vector(b)[0], vector(a), reverse=bool(rng.random() < 0.5)
    )
    return jnp.append(every, last)


def scanned_rows(rng, a, b):
    m, w = matrix(a), matrix(a).shape[1]
    weights = constant(rng, a, w, w, zeros=0.3)

    def step(c, row):
        k, c = c
        c = jnp.tanh(weights @ c + row)
        return (k + 1, c), (c[k % w], c[::-1])

    (_, last), (places, every) = lax.scan(step, (0, some(b, w)), m)
    return jnp.concatenate([last, places, every.reshape(-1)])


def scanned_by_number(rng, a, b):
    v = vector(a)
    order = jnp.asarray(rng.permutation(v.size))
    return lax.scan(lambda c, k: (c.at[k].multiply(0.5), c[order[k]]), v, order)[1]


def scanned_of_scans(rng, a, b):
    m = matrix(a)
    return lax.scan(lambda c, row: (c + lax.scan(lambda d, v: (d * v, None), c, row)[0], c), vector(b)[0], m)[1]


def scanned_none(rng, a, b):
    v = vector(a)
    last, none = lax.scan(lambda c, w: (c * w, c), v[0], v[:0])
    return jnp.append(none, last)


def stepped(rng, a, b):
    v, shift = vector(a), int(rng.integers(4))
    return lax.fori_loop(
        0, int(rng.integers(0, 4)), lambda i, u: u.at[i % v.size].add(0.3 * jnp.sin(u[(i + shift) % v.size])), v
    )


def diffused(rng, a, b):
    v, steps = vector(a), int(rng.choice([1, 3, 70]))
    return lax.scan(lambda u, _: (0.5 * u + 0.2 * jnp.roll(u, 1), None), v, None, length=steps)[0]


def dead_carry(rng, a, b):
    v = vector(a)
    return lax.scan(lambda c, w: ((c[0] * 2, c[0].mean() + w), c[0][:1]), (v, vector(b)[0]), some(b, 3))[0][0]


def mapped(rng, a, b):
    return lax.map(lambda row: jnp.sin(row) * row.sum(), matrix(a))


def branched(rng, a, b):
    other = some(b, *a.shape)
    condition = vector(b)[0] > 0 if rng.random() < 0.6 else jnp.asarray(bool(rng.integers(2)))
    return lax.cond(condition, lambda a, b: a * b, lambda a, b: 2 * jnp.flip(a), a, other)


def branched_in_scan(rng, a, b):
    def step(c, v):
        return lax.cond(v > 0, lambda c, v: c * v, lambda c, v: c, c, v), c

    return lax.scan(step, vector(b)[0], vector(a))[1]


def switched(rng, a, b):
    which = integers(b, 3)[0] if rng.random() < 0.5 else jnp.asarray(rng.integers(3))
    return lax.switch(which, [jnp.sin, lambda a: jnp.cumsum(vector(a)).reshape(a.shape) if a.size else a, jnp.flip], a)


def until_known(rng, a, b):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * beside_a(b, a)), (0, a))[1]


def until_value(rng, a, b):
    v = vector(a)
    return lax.while_loop(lambda u: jnp.sum(u**2) > 0.3, lambda u: 0.6 * u + 0.1 * jnp.roll(u, 1), v)


def to_value(rng, a, b):
    v = vector(a)
    return lax.fori_loop(0, integers(b, 3)[0] + 1, lambda i, u: 0.5 * u.at[i % v.size].multiply(2) + 0.1 * v, v)


def beside_a(b, a):
    return some(b, *a.shape)


def checkpointed(rng, a, b):
    other = some(b, *a.shape)
    return jax.checkpoint(lambda a: jnp.sin(jnp.sin(a) * other))(a)


def nested(rng, a, b):
    return jax.jit(lambda a: jax.jit(jnp.sin)(a) * 2)(jnp.flip(a))


CONTROL = {
    # indices
    "gather": gathered,
    "gather by value": gathered_by_value,
    "gather pairs": gathered_pairs,
    "mask": masked,
    "take along": taken_along,
    "update at": updated_at,
    "add at": added_at,
    "add at values": added_at_values,
    "set at value": set_at_value,
    "set rows": set_rows,
    "part by value": part_by_value,
    "update part": part_updated,
    "diagonal": diagonals,
    "triangle": triangles,
    # control flow
    "scan": scanned,
    "scan rows": scanned_rows,
    "scan by number": scanned_by_number,
    "scan of scans": scanned_of_scans,
    "scan none": scanned_none,
    "fori": stepped,
    "diffuse": diffused,
    "dead carry": dead_carry,
    "map": mapped,
    "cond": branched,
    "cond in scan": branched_in_scan,
    "switch": switched,
    "checkpoint": checkpointed,
    "jit": nested,
}

# JAX has no pullback of these,
FORWARD_ONLY = {
    "while": until_known,
    "while by value": until_value,
    "fori by value": to_value,
}
