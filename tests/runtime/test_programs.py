"""Programs are compiled together, with a line while it lasts, and then compute what their functions do."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.runtime import parallel, programs

LEVEL = {"xla_gpu_autotune_level": 1}


def shifted(by):
    return parallel.map_eval(lambda variables, data: variables + data + by)


def arguments():
    return parallel.replicate(np.float32(1)), parallel.place(jnp.arange(3.0))


def test_compiled_programs_compute_what_their_functions_do():
    wanted = {name: (shifted(by), arguments()) for name, by in {"two": 2.0, "three": 3.0}.items()}
    compiled = programs.compile_together(wanted, autotune_level=1)
    assert list(compiled) == ["two", "three"]
    np.testing.assert_array_equal(compiled["two"](*arguments())[0], [3, 4, 5])
    np.testing.assert_array_equal(compiled["three"](*arguments())[0], [4, 5, 6])


def test_all_are_compiled_at_the_same_time():
    both = threading.Barrier(2, timeout=20)

    def meeting(by):
        def meets(variables, data):
            both.wait()
            return variables + data + by

        return parallel.map_eval(meets)

    programs.compile_together({str(by): (meeting(by), arguments()) for by in (1, 2)})


def test_a_line_says_what_is_compiled_and_for_how_long(monkeypatch, capsys):
    monkeypatch.setattr(programs, "FIRST_LINE_SECONDS", 0.01)
    said = threading.Event()
    monkeypatch.setattr(parallel, "say", lambda line: (print(line), said.set()))

    def slow(variables, data):
        assert said.wait(60)
        return variables + data

    programs.compile_together({"training": (parallel.map_eval(slow), arguments())})
    assert "compiling training: 0 s so far" in capsys.readouterr().out


def test_what_fails_in_a_thread_is_raised():
    def wrong(variables, data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        programs.compile_together({"wrong": (parallel.map_eval(wrong), arguments())})


def test_the_level_of_autotuning_is_for_gpus_and_for_those_who_set_none(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert programs.compiler_options(1) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert programs.compiler_options(1) == LEVEL
    assert programs.compiler_options(None) == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4")
    assert programs.compiler_options(1) == {}


def test_xla_knows_the_option():
    jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=LEVEL)
    with pytest.raises(Exception, match="xla_no_such_option"):
        jax.jit(lambda x: x + 2).lower(1.0).compile(compiler_options={"xla_no_such_option": 1})
