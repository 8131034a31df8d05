"""Random programs, read in random ways, give the results of JAX. For more programs: `python -m tests.fuzz`."""

import pytest
from fuzz import check as checks
from fuzz.check import Failure, check, minimal
from fuzz.programs import OPERATIONS, Program, Step, generate

import jacobia

pytestmark = pytest.mark.slow


def shown(program, failures):
    return "\n".join(f"{program}\n{f.session}: {f.reads}\n{f.detail}" for f in failures)


@pytest.mark.parametrize("seed", [*range(16), 7102])
def test_a_random_program(seed):
    program = generate(seed)
    result = check(program)
    assert not result.failures, shown(program, result.failures)
    assert result.compared or result.skipped or result.known


def test_nothing_is_known_to_be_wrong():
    assert not checks.KNOWN


NAMES = sorted(OPERATIONS)


@pytest.mark.parametrize("names", [NAMES[k : k + 3] for k in range(0, len(NAMES), 3)], ids=",".join)
def test_every_operation(names):
    """Each operation is one output. Its operand is a product, whose elements depend on neighboring inputs."""
    steps = [Step(name, k, k + 1, 5) for k, name in enumerate(names)]
    seed = NAMES.index(names[0])  # so that the output that is read is not always the first one
    program = Program(seed, ((6,),), (Step("multiply", 0, 0, 0), *steps), outputs=len(names))
    result = check(program, more=0)
    assert result.compared > 2 and not result.failures, shown(program, result.failures)


def test_a_wrong_number_is_seen_and_made_small(monkeypatch):
    program = Program(3, ((4,),), tuple(Step(name, 0, 1, 5) for name in ("sin", "multiply", "flip")))
    assert check(program).failures == []
    monkeypatch.setattr(jacobia.Jacobian, "__getitem__", lambda J, key: 2 * read(J, key))
    result = check(program)
    assert {failure.kind for failure in result.failures} == {"mismatch"}
    less, failure = minimal(program, "mismatch", tries=20)
    assert len(less.steps) < 3 and less.shapes == ((2,),) and isinstance(failure, Failure)


read = jacobia.Jacobian.__getitem__


def test_what_hangs_is_a_failure(monkeypatch):
    def endless(J, key):
        while True:
            pass

    monkeypatch.setattr(jacobia.Jacobian, "__getitem__", endless)
    result = check(Program(3, ((2,),), (Step("sin", 0, 0, 0),)), seconds=1)
    assert [failure.kind for failure in result.failures] == ["hang"]
