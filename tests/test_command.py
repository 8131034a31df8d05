"""`python -m jacobia explain`, on functions of this file: what it prints, and its one-line errors."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import _command, hessian, jacobian
from jacobia.__main__ import main
from jacobia._words import array_word

HERE = __name__
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def layer(x):
    return jnp.tanh(W @ x)


def energy(x):
    return jnp.sum(x**3)


def predict(x, w):
    return {"y": w @ x, "losses": (jnp.sum(x),)}


def branches(x):
    return x if x[0] > 0 else -x


def stepped(x):
    return jax.lax.fori_loop(0, 3, one_way, x)


@jax.custom_jvp
def one_way(_, x):
    return jnp.sin(x)


@one_way.defjvp
def _one_way_jvp(primals, tangents):
    raise RuntimeError("no derivative here.\nAnd more lines that nobody needs.")


def with_option(x, *, option):
    return x * option


def integers(x):
    return x.astype(int)


class Net:
    def __init__(self):
        self.w = W

    def __call__(self, x):
        return self.w @ x

    def scaled(self, x):
        return self.w @ x * 2

    @staticmethod
    def doubled(x):
        return 2 * x


net = Net()


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def printed(capsys, *argv):
    assert main(["explain", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *argv):
    """The one line on stderr. Asserts that it has all parts of an error message of this library."""
    assert main(["explain", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1 and "Traceback" not in err
    what, rest = err.strip().split("expected", 1)
    got, hint = rest.split(", got ", 1)[1].split(". ", 1)
    assert what.endswith(": ") and got and hint.endswith(".") and ".." not in hint.replace("...", "")
    return err


# What it prints


def test_a_jacobian(capsys):
    assert printed(capsys, f"{HERE}:layer", "--shape", "4") == f"{jacobian(layer).explain(struct(4))}\n"


def test_a_hessian(capsys):
    told = printed(capsys, f"{HERE}:energy", "--shape", "4", "--hessian")
    assert told == f"{hessian(energy).explain(struct(4))}\n" and told.startswith("Hessian(f32[4,4]")


def test_two_shapes_and_a_tree(capsys):
    told = printed(capsys, f"{HERE}:predict", "--shape", "4", "--shape", "3,4")
    expected = jacobian(predict).explain(struct(4), struct(3, 4))
    assert told == f"J['losses'][0]: {expected['losses'][0]}\n\nJ['y']: {expected['y']}\n"


@pytest.mark.parametrize(
    "argnums, shapes",
    [("1", ["3,3,4"]), ("-1", ["3,3,4"]), ("1,0", ["3,3,4", "3,4"]), ("0,", ["3,4"])],
)
def test_argnums(capsys, argnums, shapes):
    told = printed(capsys, f"{HERE}:predict", "--shape", "4", "--shape", "3,4", "--argnums", argnums)
    for k, shape in enumerate(shapes):
        name = f"J['y'][{k}]" if "," in argnums else "J['y']"
        assert f"{name}: Jacobian(f32[{shape}]" in told
    assert told.count("Jacobian(") == 2 * len(shapes)


def test_blocks_of_a_hessian_have_the_names_one_writes(capsys):
    told = printed(capsys, f"{HERE}:predict", "--shape", "4", "--shape", "3,4", "--argnums", "0,1", "--hessian")
    assert "H['y'][0][1]: Hessian(f32[3,4,3,4]" in told


def test_float64_is_turned_on_for_the_command_alone(capsys):
    before = jax.config.jax_enable_x64
    told = printed(capsys, f"{HERE}:layer", "--shape", "4", "--dtype", "float64")
    assert "f64[3,4]" in told and "asked for: shape (3, 4), 96 bytes" in told
    assert jax.config.jax_enable_x64 == before
    assert "f16[" in printed(capsys, f"{HERE}:energy", "--shape", "4", "--dtype", "float16")


def test_a_dtype_for_each_shape(capsys):
    argv = [f"{HERE}:predict", "--shape", "4", "--shape", "3,4", "--dtype", "float32", "--dtype", "float64"]
    told = printed(capsys, *argv)
    assert "J['losses'][0]: Jacobian(f32[4]" in told and "J['y']: Jacobian(f64[3,4]" in told
    assert printed(capsys, *argv[:5], "--dtype", "float64").count("(f64[") == 2


def test_without_a_dtype_it_is_that_of_jax(capsys, x64):
    assert "f64[" in printed(capsys, f"{HERE}:energy", "--shape", "4")


@pytest.mark.parametrize(
    "text, shape",
    [
        ("", ()),
        ("()", ()),
        (" ", ()),
        ("3", (3,)),
        ("3,", (3,)),
        ("(3,)", (3,)),
        ("(2, 0, 1)", (2, 0, 1)),
        ("2,3", (2, 3)),
    ],
)
def test_shapes(capsys, text, shape):
    assert _command._shape(text) == shape
    assert f"Jacobian({array_word('float32', shape * 2)}," in printed(capsys, f"{HERE}:Net.doubled", "--shape", text)


@pytest.mark.parametrize("name", ["net", "net.__call__", "net.scaled"])
def test_objects_and_their_methods(capsys, name):
    assert "Jacobian(f32[3,4]" in printed(capsys, f"{HERE}:{name}", "--shape", "4")


@pytest.mark.parametrize(
    "text, key",
    [
        ("1", 1),
        ("-1", -1),
        ("...", ...),
        ("None", None),
        ("1,", (1,)),
        ("0, ::2", (0, np.s_[::2])),
        ("1:3", np.s_[1:3]),
        (":", np.s_[:]),
        ("-2::-1,...,None", np.s_[-2::-1, ..., None]),
    ],
)
def test_keys(capsys, text, key):
    assert _command._key(text) == key
    told = str(jacobian(layer)(jnp.ones(4)).explain(key)).replace("nothing known, cpu:0)", "a shape alone)")
    assert printed(capsys, f"{HERE}:layer", "--shape", "4", f"--key={text}") == f"{told}\n"


def test_memory(capsys):
    told = printed(capsys, f"{HERE}:layer", "--shape", "4", "--memory").splitlines()
    assert told[:-1] == str(jacobian(layer).explain(struct(4))).splitlines()
    taken = jacobian(layer).explain(struct(4)).memory
    assert taken > 0 and told[-1] == f"memory: {taken} bytes at its peak beyond the inputs (compiled)"
    tree = printed(capsys, f"{HERE}:predict", "--shape", "4", "--shape", "3,4", "--memory")
    assert tree.count("\nmemory: ") == 2


def test_help_has_an_example(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and max(map(len, text.splitlines())) <= 88
    assert "python -m jacobia explain model:predict --shape 1000 --shape 3,4\n" in text


# Errors


@pytest.mark.parametrize("target", ["model", "model.loss", ":loss", "model:", "", ".model:loss"])
def test_no_module_and_function(capsys, target):
    assert f"expected MODULE:FUNCTION, got {target!r}" in refused(capsys, target, "--shape", "4")


@pytest.mark.parametrize("module", ["no_such_module_x", "no_such_module_x.deep", f"{HERE}.deep", "src/model.py"])
def test_no_such_module(capsys, module):
    told = refused(capsys, f"{module}:f", "--shape", "4")
    assert told.startswith(f"explain {module}:f: ") and "No module named" in told and "the folder that holds it" in told


@pytest.mark.parametrize(
    "source, said",
    [
        ("raise ValueError('bad weights.\\nMore.')", "ValueError: bad weights. python"),
        ("raise KeyError", "KeyError. python"),
        ("import sys; sys.exit('done')", "SystemExit: done. python"),
        ("def f(:", "SyntaxError: "),
        ("import no_such_module_x", "ModuleNotFoundError: No module named 'no_such_module_x'. python"),
    ],
)
def test_a_module_that_raises(capsys, tmp_path, monkeypatch, source, said):
    (tmp_path / "module_that_raises.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    told = refused(capsys, "module_that_raises:f", "--shape", "4")
    assert f"got {said}" in told and "python -c 'import module_that_raises' shows where" in told


@pytest.mark.parametrize("name", ["lay", "Net.lay", "layer.deep.er"])
def test_no_such_name(capsys, name):
    told = refused(capsys, f"{HERE}:{name}", "--shape", "4")
    assert f"expected a name that {HERE} defines, got {name!r}" in told and "has no attribute" in told


def test_not_callable(capsys):
    assert "expected a callable, got ndarray. " in refused(capsys, f"{HERE}:net.w", "--shape", "4")


@pytest.mark.parametrize("text", ["x", "3,x", "3,,4", ",", "-1", "3,-4", "1.5", "3x4", "[3]", "None"])
def test_not_a_shape(capsys, text):
    told = refused(capsys, f"{HERE}:layer", "--shape", text)
    assert told.startswith("explain --shape: ") and f"got {text!r}" in told


@pytest.mark.parametrize("text", ["float31", "", "float128", "str", "object", "datetime64", "f4,f4"])
def test_not_a_dtype(capsys, text):
    told = refused(capsys, f"{HERE}:layer", "--shape", "4", "--dtype", text)
    assert told.startswith("explain --dtype: ") and f"got {text!r}" in told


@pytest.mark.parametrize(
    "dtype, kind", [("int32", "float"), ("int64", "float"), ("bool", "float"), ("complex64", "real")]
)
def test_a_dtype_without_derivatives_is_told_by_the_transform(capsys, dtype, kind):
    told = refused(capsys, f"{HERE}:Net.doubled", "--shape", "4", "--dtype", dtype)
    assert told.startswith(f"jacobian(args[0]): expected a {kind} input") and f"got {dtype}" in told


def test_outputs_without_derivatives_are_told_by_the_transform(capsys):
    assert refused(capsys, f"{HERE}:integers", "--shape", "4").startswith("jacobian(output): expected a float output")
    assert "expected f to return arrays" in refused(capsys, f"{HERE}:Net.__name__.format", "--shape", "4")


def test_as_many_dtypes_as_shapes(capsys):
    told = refused(capsys, f"{HERE}:layer", "--shape", "4", "--dtype", "float32", "--dtype", "float32")
    assert "or once for each --shape (1), got it 2 times" in told


@pytest.mark.parametrize(
    "name, shapes, said",
    [
        ("predict", ["4"], "got 1 (missing a required argument: 'w'). Its arguments are (x, w)."),
        ("layer", ["4", "4"], "got 2 (too many positional arguments). Its arguments are (x)."),
        ("with_option", ["4"], "'option'). Its arguments are (x, *, option)."),
        ("layer", [], "got none"),
    ],
)
def test_as_many_shapes_as_arguments(capsys, name, shapes, said):
    assert said in refused(capsys, f"{HERE}:{name}", *[a for s in shapes for a in ("--shape", s)])


def test_a_function_that_raises_while_traced(capsys):
    told = refused(capsys, f"{HERE}:predict", "--shape", "4", "--shape", "3,5")
    assert told.startswith(
        f"explain {HERE}:predict: expected a function that can be traced at float32[4], float32[3,5], got "
    )
    assert "(5,) and (4,). Check --shape" in told
    assert "got TracerBoolConversionError: " in refused(capsys, f"{HERE}:branches", "--shape", "4")


def test_a_function_that_raises_while_differentiated(capsys):
    told = refused(capsys, f"{HERE}:stepped", "--shape", "")
    assert told.startswith(f"jacobian({HERE}:stepped): ") and "got RuntimeError: no derivative here. Check" in told


@pytest.mark.parametrize(
    "text, got", [("x", "got 'x'"), ("", "got ''"), ("0,x", "got '0,x'"), (",", "got ','"), ("2", "got 2")]
)
def test_not_argnums(capsys, text, got):
    assert got in refused(capsys, f"{HERE}:layer", "--shape", "4", f"--argnums={text}")


@pytest.mark.parametrize(
    "text", ["x", "", "1:2:3:4", "::0", "1;2", "[0]", "()", "True", "1.0", "1,,2", "__import__('os')"]
)
def test_not_a_key(capsys, text):
    told = refused(capsys, f"{HERE}:layer", "--shape", "4", "--key", text)
    assert told.startswith("explain --key: ") and f"got {text!r}" in told


def test_a_key_for_another_shape_is_told_by_the_view(capsys):
    assert refused(capsys, f"{HERE}:layer", "--shape", "4", "--key", "7").startswith(
        "J[7]: expected a key for shape (3, 4)"
    )


# In a process of its own


def test_the_current_folder_can_be_imported(tmp_path):
    (tmp_path / "model.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    root = Path(__file__).parents[1]

    def run(*argv):
        command = [sys.executable, "-m", "jacobia", "explain", *argv]
        environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    right = run("model:double", "--shape", "2,3", "--dtype", "float64")
    assert (right.returncode, right.stderr) == (0, "") and "Jacobian(f64[2,3,2,3]" in right.stdout
    wrong = run("model:triple", "--shape", "2,3")
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.count("\n") == 1
