"""Random programs, each built so that a certain shortcut applies. The same number gives the same program.

A program is a function of one float32 vector. Factors are stretched along axes of length 1 as often as possible.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N = 6  # elements of the point
MOST = 36  # elements of any array on the way


class Step(NamedTuple):
    run: Callable
    shape: tuple[int, ...]  # of the result


class Draw:
    """Random choices, and arrays and steps made of them."""

    def __init__(self, number):
        self.random = np.random.default_rng(number)

    def chance(self, share=0.5):
        return self.random.random() < share

    def one_of(self, things):
        return things[self.random.integers(len(things))]

    def count(self, low, high):
        return int(self.random.integers(low, high + 1))

    def array(self, *shape):
        return (self.random.uniform(0.5, 1.5, shape) * self.random.choice([-1, 1], shape)).astype(np.float32)

    def matrix(self, m, n):
        return self.array(m, n) / np.float32(np.sqrt(n))

    def point(self, n=N):
        return self.random.uniform(0.3, 1.2, n).astype(np.float32)

    def shape(self, size):
        """A shape with this many elements, up to four axes, some of length 1."""
        axes = []
        while size > 1:
            parts = [k for k in range(2, size) if size % k == 0]
            axes.append(self.one_of(parts) if parts and self.chance(0.8) else size)
            size //= axes[-1]
        for _ in range(self.count(0, 2)):
            axes.insert(self.count(0, len(axes)), 1)
        return tuple(axes)

    def stretched(self, shape):
        """A shape that broadcasts to this shape, or is equal to it."""
        return tuple(1 if self.chance() else k for k in shape)

    def chain(self, steps, shape, length):
        """This many random steps in sequence, starting from an array of this shape."""
        chosen = []
        for _ in range(length):
            step = self.one_of(steps)(self, shape)
            if np.prod(step.shape) <= MOST:
                chosen.append(step.run)
                shape = step.shape

        def run(x):
            for step in chosen:
                x = step(x)
            return x

        return Step(run, shape)


# Steps that map a single nonzero element to a single nonzero element


def negative(draw, shape):
    return Step(lambda x: -x, shape)


def scaled(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: x * factor, shape)


def scaled_from_left(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: jnp.sin(factor) * x, shape)


def over(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: x / factor, shape)


def reshaped(draw, shape):
    new = draw.shape(int(np.prod(shape)))
    return Step(lambda x: x.reshape(new), new)


def axis_added(draw, shape):
    axis = draw.count(0, len(shape))
    return Step(lambda x: jnp.expand_dims(x, axis), (*shape[:axis], 1, *shape[axis:]))


def squeezed(draw, shape):
    return Step(jnp.squeeze, tuple(k for k in shape if k > 1))


def with_itself(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: x * factor + x, shape) if draw.chance() else Step(lambda x: x - factor * x, shape)


def twice_reshaped(draw, shape):
    step = draw.chain([reshaped, axis_added], shape, 1)
    return Step(lambda x: x.reshape(step.shape) * 2 - step.run(x), step.shape)


def under_jit(draw, shape):
    step = draw.chain([scaled, over, reshaped, with_itself], shape, 2)
    return Step(jax.jit(step.run), step.shape)


KEEPING = [
    negative, scaled, scaled, scaled_from_left, over, over, reshaped, reshaped, axis_added, squeezed, with_itself,
    twice_reshaped, under_jit,
]  # fmt: skip


# Any other steps


def bent(draw, shape):
    bend = draw.one_of([jnp.sin, jnp.tanh, jnp.square, lambda x: jnp.exp(-x * x), jnp.cos])
    return Step(bend, shape)


def times_itself(draw, shape):
    return Step(lambda x: x * jnp.cos(x), shape)


def grown(draw, shape):
    """Stretched by a factor that is longer along an axis of length 1."""
    axis, count = draw.count(0, len(shape)), draw.count(2, 3)
    factor = draw.array(*draw.stretched(shape[:axis]), count, *draw.stretched(shape[axis:]))
    new = (*shape[:axis], count, *shape[axis:])
    acts = [
        lambda x: x * factor,
        lambda x: factor + x,
        lambda x: jnp.where(factor > 0, x, factor),
        lambda x: x / factor,
        lambda x: factor / (2 + x * x),
        lambda x: jnp.maximum(x, factor),
    ]
    act = draw.one_of(acts)
    return Step(lambda x: act(jnp.expand_dims(x, axis)), new)


def paired(draw, shape):
    size = int(np.prod(shape))
    act = draw.one_of([jnp.add, jnp.subtract, jnp.multiply, jnp.maximum])
    return Step(lambda x: act(x.reshape(-1, 1), x.reshape(1, -1)), (size, size))


def turned(draw, shape):
    order = tuple(int(a) for a in draw.random.permutation(len(shape)))
    return Step(lambda x: x.transpose(order), tuple(shape[a] for a in order))


def flipped(draw, shape):
    if not shape:
        return Step(lambda x: x, shape)
    axis = draw.count(0, len(shape) - 1)
    return Step(lambda x: jnp.flip(x, axis), shape)


def masked(draw, shape):
    mask, other = draw.array(*draw.stretched(shape)) > 0, draw.array(*draw.stretched(shape))
    return Step(lambda x: jnp.where(mask, x, other), shape)


def summed(draw, shape):
    if not shape:
        return Step(lambda x: x, shape)
    axis, keep = draw.count(0, len(shape) - 1), draw.chance()
    left = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
    return Step(lambda x: x.sum(axis, keepdims=keep), left)


def centred(draw, shape):
    if not shape:
        return Step(lambda x: x, shape)
    axis = draw.count(0, len(shape) - 1)
    return Step(lambda x: x - x.mean(axis, keepdims=True), shape)


def picked(draw, shape):
    size = int(np.prod(shape))
    places = draw.random.integers(0, size, draw.count(1, 2 * N))
    return Step(lambda x: x.reshape(-1)[places], (len(places),))


def padded(draw, shape):
    low, high = draw.count(0, 2), draw.count(0, 2)
    size = int(np.prod(shape))
    return Step(lambda x: jnp.pad(x.reshape(-1), (low, high)), (low + size + high,))


def beside_itself(draw, shape):
    size = int(np.prod(shape))
    a = draw.count(0, size)
    return Step(lambda x: jnp.concatenate([x.reshape(-1)[a:], x.reshape(-1) * 2]), (2 * size - a,))


def multiplied(draw, shape):
    size, m = int(np.prod(shape)), draw.count(2, 8)
    weight = draw.matrix(m, size)
    return Step(lambda x: weight @ x.reshape(-1), (m,))


def looped(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: lax.scan(lambda c, _: (jnp.sin(c) * factor, None), x, None, length=2)[0], shape)


def branched(draw, shape):
    factor = draw.array(*draw.stretched(shape))
    return Step(lambda x: lax.cond(jnp.sum(x) > 0.3, lambda x: x * factor, jnp.sin, x), shape)


FREE = [
    *KEEPING, bent, bent, times_itself, grown, grown, paired, turned, flipped, masked, summed, centred, picked, padded,
    beside_itself, multiplied, looped, branched,
]  # fmt: skip


def size(shape):
    return int(np.prod(shape))


def flat(parts):
    return lambda x: jnp.concatenate([part(x).reshape(-1) for part in parts])


# Programs


def rows_met(number):
    """Row seeds with a single nonzero element meet a matrix; anything may be beside these rows."""
    draw, parts = Draw(number), []
    for _ in range(draw.count(1, 2)):
        before, m = draw.chain(FREE, (N,), draw.count(0, 2)), draw.one_of([4, 6, 8])
        weight, shape = draw.matrix(m, size(before.shape)), draw.shape(m)
        after = draw.chain(KEEPING, shape, draw.count(1, 4))
        parts.append(lambda x, b=before, w=weight, s=shape, a=after: a.run((w @ b.run(x).reshape(-1)).reshape(s)))
    if draw.chance(0.7):
        shape = draw.shape(N)
        aside = draw.chain([*KEEPING, grown], shape, draw.count(1, 4))
        parts.append(lambda x: aside.run(x.reshape(shape)))
    draw.random.shuffle(parts)
    return flat(parts)


def columns_met(number):
    """Column seeds with a single nonzero element meet a matrix."""
    draw = Draw(number)
    shape, m = draw.shape(N), draw.count(2, 8)
    before, weight = draw.chain(KEEPING, shape, draw.count(1, 5)), draw.matrix(m, N)
    after = draw.chain(FREE, (m,), draw.count(0, 2))
    aside = draw.chain([*KEEPING, grown, paired], (N,), draw.count(0, 3))
    other = draw.matrix(3, size(aside.shape))
    met = lambda x: after.run(weight @ before.run(x.reshape(shape)).reshape(-1))  # noqa: E731
    return flat([met, lambda x: other @ aside.run(x).reshape(-1)])


def narrow(number):
    """Everything goes through at most three numbers, fewer than inputs or outputs."""
    draw, k = Draw(number), 1 + number % 3
    before = draw.chain(FREE, (N,), draw.count(0, 3))
    middle = draw.chain([bent, scaled, negative, reshaped, under_jit, masked, looped, branched], (k,), draw.count(0, 2))
    first, second = draw.matrix(k, size(before.shape)), draw.matrix(8, k)
    after = draw.chain(FREE, (8,), draw.count(0, 3))
    again = draw.array(5)  # what is narrow is read a second time

    def f(x):
        z = middle.run(first @ before.run(x).reshape(-1)).reshape(-1)
        return jnp.concatenate([after.run(jnp.tanh(second @ z)).reshape(-1), again * z[0]])

    return f


def partly_constant(number):
    """A function of closed-over arrays. Some of its rows do not depend on x, nor do many intermediates."""
    draw, parts = Draw(number), []
    linear = [*KEEPING, turned, flipped, summed, centred, picked, padded, beside_itself, multiplied]
    before, m = draw.chain(linear, (N,), draw.count(0, 2)), draw.count(2, 6)
    after, bent_too = draw.chain(linear, (m,), draw.count(0, 3)), draw.chain(FREE, (N,), draw.count(0, 3))
    column, low = draw.chain(FREE, (2, N), draw.count(0, 2)), draw.count(0, 30)
    parts = [
        lambda x, w: after.run(w[low : low + m, : size(before.shape)] @ before.run(x).reshape(-1)),
        lambda x, w: bent_too.run(x),
        lambda x, w: column.run(w[:2, low : low + 1] * x),
        lambda x, w: w[:3, 0],
    ]
    draw.random.shuffle(parts)

    def of(a, b):
        return lambda x: flat([lambda x, p=p: p(x, jnp.tanh(a @ b)) for p in parts])(x)

    return of, [jnp.asarray(draw.matrix(80, 80)) for _ in range(2)]


def samples_apart(number, count):
    """A function of a batch along axis 0 that keeps samples apart, and the function of one sample."""
    draw, steps, shape = Draw(number), [], (N,)
    for _ in range(draw.count(1, 4)):
        step = draw.chain(FREE, shape, 1)
        steps.append((step.run, None))
        shape = step.shape
        lead = draw.one_of([1, count])
        factor = draw.array(lead, *draw.stretched(shape))
        act = draw.one_of([jnp.multiply, jnp.divide, jnp.add, lambda x, c: jnp.where(c > 0, x, jnp.sin(x) * c)])
        steps.append((act, factor))

    def f(x):
        for act, factor in steps:
            x = jax.vmap(act)(x) if factor is None else act(x, factor)
        return x

    def one(x, sample):
        for act, factor in steps:
            x = act(x) if factor is None else act(x, jnp.asarray(factor)[sample if len(factor) > 1 else 0])
        return x

    return f, one, shape
