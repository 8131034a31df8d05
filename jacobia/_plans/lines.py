"""Rows or columns of some blocks of one call: one kernel for all of them, and how it is run again at other points.

Knows sweeps and the numbers of lines. Knows nothing of keys or stores.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from jacobia._compat import Tracer
from jacobia._plans.fitting import fitting
from jacobia._plans.mirror import flip_form, mirrored
from jacobia._plans.plan import Outline, PlanOfLines
from jacobia._plans.recipes import Recipe, Together, recipe_name, worth_remembering
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.sizes import padded, sized
from jacobia._plans.ways import check_width, choose_way, choose_ways, count_of, key_of, other_ways
from jacobia._program.readings.cost import Work
from jacobia._run.blueprint import Block
from jacobia._run.point import Linearized
from jacobia._run.seeds import Image, Sweep


def lines(origin: Linearized, missing: Request, asked: Request) -> "Iterator[Lines]":
    """The plans for missing lines of one block: by the cheaper direction first, then by the other one.

    Args:
      missing: the lines that the store lacks.
      asked: the request itself. Its direction, rows or columns, is preferred.
    """
    block = origin.blue.blocks[missing.block]
    counts = {"rows": count_of(missing.rows, block.row_shape), "columns": count_of(missing.columns, block.column_shape)}
    choice = choose_way(origin, missing.block, asked.asks, *counts.values())
    passes, instead = counts.values() if choice.way == "rows" else reversed(counts.values())
    first = Lines(origin, asked, Outline(choice.way, passes, instead, choice.why), (missing,), (choice.way,))
    yield first
    if other_ways(origin, [missing], [choice.way]):
        yield first.by_way("columns" if choice.way == "rows" else "rows")


def lines_of_all(
    origin: Linearized, missing: Sequence[Request], asked: Sequence[Request], reflected: frozenset[int]
) -> "Iterator[Lines]":
    """The plans for missing lines of several blocks, by one kernel.

    Args:
      reflected: further blocks, whole, which are the transposes of missing blocks.
    """
    ways = choose_ways(origin, missing, asked)
    outline = Outline(ways[0], 0, 0, "")
    yield Lines(origin, asked[0], outline, tuple(missing), tuple(ways), reflected)
    other = other_ways(origin, missing, ways)
    if other is not None:
        yield Lines(origin, asked[0], outline, tuple(missing), tuple(other), reflected)


@dataclass(frozen=True, eq=False)
class Lines(PlanOfLines):
    """Seeds through the pullback or the pushforward of f.

    `missing` are the lines to compute, one request for each block; `ways` says "rows" or "columns" for each of them.
    `reflected` as for `lines_of_all`.
    """

    missing: tuple[Request, ...]
    ways: tuple[str, ...]
    reflected: frozenset[int] = frozenset()

    def by_way(self, way: str) -> "Lines":
        """The plan for the same request by the other direction, for when this plan does not fit in memory."""
        other, passes, instead, _ = self.outline
        return replace(self, outline=Outline(way, instead, passes, f"{other} do not fit in memory"), ways=(way,))

    @cached_property
    def setting(self) -> "Setting":
        """The sweeps that the kernel runs, and the place of each block's answer."""
        return _setting(self.origin, self.missing, self.ways)

    def check(self) -> None:
        assert self.setting

    def run(self) -> list[Answer]:
        origin = self.origin
        for request, way in zip(self.missing, self.ways, strict=True):
            check_width(origin, origin.blue.blocks[request.block], request, way)
        setting = self.setting
        images = self._images(setting) if origin.compiles else {}
        sweeps = fitting(origin, setting.sweeps, setting.ids, tuple(images.values()))
        out = origin.run(sweeps, setting.ids, tuple(images.values()))
        answers = [
            self._answer(*each, sweeps, out)
            for each in zip(self.missing, self.ways, setting.todo, setting.places, strict=True)
        ]
        made = [Answer(block, "rows", None, full) for block, full in zip(images, out[-1], strict=False)]
        if origin.blue.spread is not None:
            return answers
        if len(answers) == 1 and not any(isinstance(i, Tracer) for i in setting.ids):
            self._remember_one(answers[0], sweeps, setting.places[0].answer)
        elif len(answers) > 1 and all(i is None for i in setting.ids):
            self._remember_all(answers, sweeps, setting, images)
        return [*answers, *made]

    def _answer(
        self, request: Request, way: str, todo: "_Todo", place: "_Place", sweeps: Sequence[Sweep], out: Sequence
    ) -> Answer:
        target, lines = todo
        numbers = target.lines(lines)
        turned = lines != way if numbers is not None else target.block != request.block
        made = self._count(request, way, todo, sweeps[place.sweep])
        return Answer(target.block, lines, numbers, out[place.sweep][place.answer], turned, None, (made,))

    def count(self, setting: "Setting", sweeps: Sequence[Sweep]) -> tuple[Count, ...]:
        """The counts that one run adds to the counters."""
        each = zip(self.missing, self.ways, setting.todo, setting.places, strict=True)
        return tuple(self._count(request, way, todo, sweeps[place.sweep]) for request, way, todo, place in each)

    def _count(self, request: Request, way: str, todo: "_Todo", sweep: Sweep) -> Count:
        blue, (target, lines) = self.origin.blue, todo
        numbers = target.lines(lines)
        count = most_of(blue.blocks[request.block], way) if numbers is None else len(numbers)
        by = self.origin.by(lines, blue.blocks[target.block])
        return Count(request.block, way, by, count, count, sweep.width or count)

    def _images(self, setting: "Setting") -> dict[int, Image]:
        # Number of a block → how to transpose a computed block to it: for whole blocks that are requested or
        # `reflected`, and not computed themselves.
        blue = self.origin.blue
        if not blue.symmetric or blue.spread is not None:
            return {}
        wanted = self.reflected | {r.block for r in self.missing if r.asks == "all"}
        computed = {t.request.block for t in setting.todo}
        images = {}
        for (request, way), place in zip(setting.todo, setting.places, strict=True):
            image = blue.mirrors[request.block]
            if image in wanted - computed and request.lines(way) is None:
                images[image] = Image(*place, *flip_form(blue, blue.spaces.lead, request.block))
        return images

    def _remember_one(self, answer: Answer, sweeps: tuple[Sweep, ...], place: int) -> None:
        origin, (request,), (way,), (sweep,) = self.origin, self.missing, self.ways, sweeps
        every = answer.numbers is None
        if every and answer.block != request.block:
            return
        one = sweep.single and origin.blue.memory_limit is None  # a single seed cannot be split into chunks
        width = None if every else sweep.width
        count = most_of(origin.blue.blocks[request.block], way) if width is None else width
        need = (
            2 * nbytes_of(origin, request.block)
            if every
            else 0
            if one
            else count * origin.blue.nbytes_of_seed(sweep.way, *sweep.ends)
        )
        if not worth_remembering(origin, need):
            return
        name = recipe_name(origin, request.block, "all" if request.asks == "all" else way, width)
        turned = answer.turned and not every
        recipe = Recipe(way, width, count, answer.block, answer.way, turned, answer.counts[0].by, sweeps, place,
                        tuple(answer.array.shape), None, origin.fused(sweeps))  # fmt: skip
        origin.blue.found.put("recipe", name, recipe)

    def _remember_all(
        self, answers: Sequence[Answer], sweeps: tuple[Sweep, ...], setting: "Setting", images: dict[int, Image]
    ) -> None:
        origin = self.origin
        if not worth_remembering(origin, 2 * sum(nbytes_of(origin, r.block) for r in self.missing)):
            return
        parts = tuple((a.block, *place, a.counts) for a, place in zip(answers, setting.places, strict=True))
        recipe = Together(*origin.fused(sweeps, tuple(images.values())), tuple(setting.ids), parts, tuple(images))
        name = frozenset((*(a.block for a in answers), *images)), origin.stacks
        origin.blue.found.put("recipe", name, recipe)

    # Explained

    def by(self) -> str:
        if self.origin.blue.symmetric:
            return "Hessian-vector products"
        if self.origin.blue.apart(self.outline.way, self._block.outs, self._block.ins) is not None:
            return "partial pullbacks"  # each through the part of f that its row needs
        return self.origin.by(self.outline.way, self._block)

    def work(self) -> Work | None:
        work = passes_work(self.origin, self.outline.way, self._block)
        return work and work[0].times(self.outline.passes).plus(work[1])

    @property
    def _block(self) -> Block:
        return self.origin.blue.blocks[self.request.block]


def passes_work(origin: Linearized, way: str, block: Block) -> tuple[Work, Work] | None:
    """The work of one pass, and of f itself, which runs once for all passes; None where there is no estimate."""
    each = origin.blue.pass_work(way, block)
    lead = math.prod(origin.batch)
    return each and (each.times(lead), origin.blue.primal_work.times(lead))


def most_of(block: Block, way: str) -> int:
    """How many rows or columns a block has."""
    return math.prod(block.row_shape if way == "rows" else block.column_shape)


def nbytes_of(origin: Linearized, index: int) -> int:
    """Bytes of all of a block."""
    block = origin.blue.blocks[index]
    return block.dtype.itemsize * math.prod(origin.lead + block.row_shape + block.column_shape)


class _Todo(NamedTuple):
    request: Request  # what is computed; for a symmetric matrix, perhaps lines of the mirror image
    way: str


class _Place(NamedTuple):
    sweep: int
    answer: int  # index among the leaves that the sweep reads


class Setting(NamedTuple):
    # The sweeps of a kernel with their seed numbers, and for each block the place of its answer.
    todo: list[_Todo]
    sweeps: tuple[Sweep, ...]
    ids: list
    places: list[_Place]


def _setting(origin: Linearized, missing: Sequence[Request], ways: Sequence[str]) -> Setting:
    # Blocks that need the same lines of the same leaves are read by one sweep.
    todo = [_laid_out(origin, request, way) for request, way in zip(missing, ways, strict=True)]
    blocks = [origin.blue.blocks[t.request.block] for t in todo]
    groups: dict[Any, list[int]] = {}
    for k, (block, (request, way)) in enumerate(zip(blocks, todo, strict=True)):
        seeded, numbers = block.outs if way == "rows" else block.ins, request.lines(way)
        by = origin.blue.by(way, block.outs, block.ins)
        groups.setdefault((way, by, seeded, key_of(numbers)), []).append(k)
    sweeps, ids, places = [], [], {}
    for (way, *_), members in groups.items():
        numbers = todo[members[0]].request.lines(way)
        outs = tuple(dict.fromkeys(i for k in members for i in blocks[k].outs))
        ins = tuple(dict.fromkeys(j for k in members for j in blocks[k].ins))
        sweep = sized(origin, way, outs, ins, numbers)
        if sweep.padded and sweep.width == 1:
            sweep = sweep._replace(single=True)
        sweeps.append(sweep)
        ids.append(padded(numbers, sweep))
        read = ins if way == "rows" else outs
        for k in members:
            own = blocks[k].ins if way == "rows" else blocks[k].outs
            places[k] = _Place(len(sweeps) - 1, 0 if origin.blue.ravel else read.index(own[0]))
    return Setting(todo, tuple(sweeps), ids, [places[k] for k in range(len(blocks))])


def _laid_out(origin: Linearized, request: Request, way: str) -> _Todo:
    # All lines of a symmetric matrix can be written as rows or as columns: whichever is cheaper to write.
    todo = _Todo(*mirrored(origin.blue, request, way))
    if todo.request.rows is None and todo.way == "rows" and origin.blue.lies_across:
        image = origin.blue.mirrors[todo.request.block]
        return _Todo(Request(image, todo.request.columns, None), "columns")
    return todo
