"""Trees of views, nested as the outputs and the inputs of f are; and `materialize`, which reads them together.

Knows trees and views. Knows nothing of how lines are computed.
"""

from typing import Any

from jax.tree_util import tree_flatten, tree_unflatten

from jacobia._call.uncalled import Uncalled
from jacobia._read.block import read_together
from jacobia._run.blueprint import Blueprint
from jacobia._view.jacobian import Jacobian


def tree_of(blue: Blueprint, items: list) -> Any:
    # The output tree, with the tree of the differentiated inputs in each leaf. A Hessian repeats the input tree in each
    # of those leaves.
    if blue.ravel:
        return items[0]
    width, counts = len(blue.spaces.inputs), [len(blue.spaces.outputs)]
    if blue.primal is not None:
        counts.append(len(blue.primal.outputs))
    for count in counts:
        rest = iter(items)
        items = []
        for _ in range(count):
            own = iter([next(rest) for _ in range(width)])
            items.append(tree_unflatten(blue.in_tree, [next(own) if kept else None for kept in blue.kept_leaves]))
    return tree_unflatten(blue.out_tree, items)


def materialize(tree: Any, key: Any = ...) -> Any:
    """Read the same key of every view of a tree. Views of the same call are read in one kernel call.

    Args:
      tree: a tree of views, as `jacobian(f)(x)` returns it. Leaves that are not views stay as they are.
      key: any key that NumPy takes.

    Returns:
      The tree with each view replaced by the array `J[key]`.

    Raises:
      TypeError: the tree is `jacobian(f)` itself, which has not been called with the arguments of f.
    """
    if isinstance(tree, Uncalled):
        raise TypeError(tree.called_first())
    leaves, treedef = tree_flatten(tree, is_leaf=lambda v: isinstance(v, Jacobian))
    calls: dict[int, list[Jacobian]] = {}
    for leaf in leaves:
        if isinstance(leaf, Jacobian):
            calls.setdefault(id(leaf._origin), []).append(leaf)
    ready: dict[int, Any] = {}
    for views in calls.values():
        ready.update(read_together(views, key))
    return tree_unflatten(treedef, [ready.get(id(v), v) for v in leaves])
