"""The one table of operations: how results are wired to operands, in which operands they are linear, what they cost.

Every reading looks an operation up here. A new operation is one name in one line of the table, or, if it only moves
elements, one line of `moves`. Of an operation in neither table a reading assumes the worst. Knows single operations.
Knows nothing of programs inside operations (branches, loops, solves): `flow` and the readings follow those.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jacobia._program.moves import FUSED, MOVES

# Values of `Wiring.linear` that are not a tuple of operand positions.
ALL = "all of them together"
EACH = "each of the first two, the other one given"
BEHIND = "all behind the first together"


class Wiring(NamedTuple):
    """What is known of one operation."""

    how: str  # how each element of a result is made of elements of the operands
    linear: tuple[int, ...] | str = ()  # positions of operands that it is linear in, with the others held fixed
    fused: float | None = FUSED  # cost of an element inside a fused loop; None: a compiler does not fuse it
    computes: bool = True  # whether it does arithmetic
    over_reals: bool = False  # whether it is linear over the real numbers only
    core: tuple[int, ...] = ()  # linear algebra: how many of the last axes of each operand it works on

    @property
    def element(self) -> bool:
        """Whether each entry of the result comes from the same entry of the operands."""
        return self.how in _ELEMENT


# All elementwise operations. In `columns/` each of these has a rule of its own.
_ELEMENT = {"element", "sum", "difference", "product", "quotient", "choice"}

UNKNOWN = Wiring("unknown")

_LINES: Sequence[tuple[Wiring, str]] = (
    (
        Wiring("element"),
        """
        acos acosh and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz cos cosh digamma eq eq_to
        erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac integer_pow is_finite le le_to lgamma
        log log1p log2 logistic lt lt_to max min mulhi ne nextafter not one_minus_square or polygamma population_count
        pow random_gamma_grad regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
        shift_right_logical sign sin sinh sqrt square tan tanh threefry2x32 xor zeta
        """,
    ),
    (Wiring("element", over_reals=True), "abs"),
    (Wiring("element", ALL), "neg complex reduce_precision"),
    (Wiring("element", ALL, over_reals=True), "conj real imag"),
    (Wiring("element", ALL, computes=False), "convert_element_type copy copy_p stop_gradient"),
    (Wiring("element", ALL, computes=False), "name sharding_constraint pvary"),
    (Wiring("element", BEHIND), "polynomial"),
    (Wiring("sum", ALL), "add add_any"),
    (Wiring("difference", ALL), "sub"),
    (Wiring("product", EACH), "mul"),
    (Wiring("quotient", (0,)), "div"),
    (Wiring("choice", BEHIND, computes=False), "select_n"),
    (Wiring("pass"), "device_put optimization_barrier"),
    (Wiring("nothing", computes=False), "iota"),
    # Reads and writes at positions given by an operand.
    (Wiring("read", (0,), None, computes=False), "gather"),
    (Wiring("read block", (0,), computes=False), "dynamic_slice"),
    (Wiring("write", (0, 2), None, computes=False), "scatter"),
    (Wiring("write sum", (0, 2), None), "scatter-add scatter_add"),
    (Wiring("write difference", (0, 2), None), "scatter-sub scatter_sub"),
    (Wiring("write product", (0,), None), "scatter-mul scatter_mul"),
    (Wiring("write extreme", fused=None), "scatter-min scatter-max scatter_min scatter_max"),
    (Wiring("write block", (0, 1), computes=False), "dynamic_update_slice"),
    # Over axes, along an axis, in windows.
    (Wiring("sum over", ALL, None), "reduce_sum"),
    (Wiring("reduce", fused=None), "reduce_prod reduce_max reduce_min argmax argmin"),
    (Wiring("reduce"), "reduce_and reduce_or reduce_xor reduce"),
    (Wiring("running sum", ALL, None), "cumsum"),
    (Wiring("running", fused=None), "cumprod cummax cummin cumlogsumexp"),
    (Wiring("sort", fused=None), "sort"),
    (Wiring("top"), "top_k"),
    (Wiring("window sum", ALL), "reduce_window_sum"),
    (Wiring("window choice", (0,)), "select_and_gather_add"),
    (Wiring("window", (0,), None), "select_and_scatter_add"),
    (Wiring("window", fused=None), "reduce_window"),
    (Wiring("window"), "reduce_window_max reduce_window_min"),
    # Products and linear algebra.
    (Wiring("contraction", EACH, None), "dot_general"),
    (Wiring("ragged", EACH), "ragged_dot_general ragged_dot"),
    (Wiring("convolution", EACH, None), "conv_general_dilated"),
    (Wiring("transform", ALL, None), "fft"),
    (Wiring("matrix", fused=None, core=(2,)), "cholesky lu qr eigh svd"),
    (Wiring("matrix", core=(2,)), "eig geqrf schur hessenberg tridiagonal"),
    (Wiring("matrix", core=(2, 1)), "householder_product"),
    (Wiring("matrix", core=(2, 2)), "symmetric_product"),
    (Wiring("matrix", core=(1,)), "lu_pivots_to_permutation random_wrap"),
    (Wiring("solve", (1,), None, core=(2, 2)), "triangular_solve"),
    (Wiring("solve", (3,), core=(1, 1, 1, 2)), "tridiagonal_solve"),
    (Wiring("solve", core=(2, 1, 2)), "ormqr"),
    (Wiring("random"), "random_bits random_seed random_split random_fold_in random_unwrap"),
    # Operations between devices, and on sparse arrays.
    (Wiring("sum over devices", ALL), "psum"),
    (
        Wiring("devices", ALL),
        """
        psum2 psum_invariant pbroadcast pcast all_gather all_gather_invariant all_gather_reduced reduce_scatter
        unreduced_psum unreduced_reduce_scatter all_to_all ppermute mesh_cast reshard layout_constraint expand_dims
        """,
    ),
    (Wiring("sparse", (0,)), "bcoo_todense"),
    (Wiring("sparse", (1,)), "bcoo_extract"),
    (Wiring("sparse"), "bcoo_dot_general"),
    (Wiring("rule", fused=None), "custom_lin"),
)

_TABLE = {name: wiring for wiring, names in _LINES for name in names.split()}
_TABLE |= {
    n: Wiring(*(("move", ALL) if m.linear else ("bits",)), fused=m.fused, computes=False) for n, m in MOVES.items()
}


def wiring(eqn: Any) -> Wiring:
    """What is known of the operation of an equation."""
    return _TABLE.get(eqn.primitive.name, UNKNOWN)


def linear_in(eqn: Any) -> Sequence[int]:
    """Positions of the operands in which an operation is jointly linear; none if it is bilinear."""
    given, count = wiring(eqn).linear, len(eqn.invars)
    if given is EACH:
        return ()
    return range(count) if given is ALL else range(1, count) if given is BEHIND else given  # pyright: ignore
