"""The modes for many runs: compare and sweep."""

import os
import shlex
import sys

import jax

from cifar_jax.api import recipes as recipe_files
from cifar_jax.cli import arguments
from cifar_jax.comparing import comparison as compare
from cifar_jax.comparing import sweep, table
from cifar_jax.errors import UserError
from cifar_jax.pages import comparison as comparison_page
from cifar_jax.storage import workdir as files_of


def run_compare(args) -> int:
    """--mode=compare: shows many runs on one page. Returns 1 if one of them cannot be read."""
    if not args.workdir:
        raise UserError(
            "--mode=compare needs runs: --workdir='runs/*', or the folder that holds them"
        )
    return _compare(args.workdir, args.target_accuracy)


def _compare(workdirs: list[str], target: float | None) -> int:
    # Computes next to nothing, so it must not take a GPU from a run that trains.
    jax.config.update("jax_platforms", "cpu")
    comparison = compare.compare(workdirs, target)
    written = comparison_page.write(comparison)
    print(f"{table.headline(comparison)}:\n")
    print(table.to_text(comparison))
    print("\nwritten:", *(f"  {path}" for path in written), sep="\n")
    for line in comparison.skipped:
        print(f"error: not shown: {line}", file=sys.stderr)
    return 1 if comparison.skipped else 0


def run_sweep(args) -> int:
    """--mode=sweep: trains every recipe with every seed, then compares. Returns 1 if a run failed."""
    if not args.recipes or not args.workdir:
        raise UserError(
            "--mode=sweep needs recipes and a folder for the runs: "
            "--recipes=configs/cifar100 --workdir=runs/cifar100"
        )
    if files_of.has_run(args.workdir):
        raise UserError(f"{args.workdir} holds a run: a sweep takes a folder for many of them")
    compare.check_target(args.target_accuracy)
    recipes = sweep.find_recipes(args.recipes)
    fields = arguments.fields_given(sys.argv)
    if args.seeds and any(field.lstrip("-").startswith("config.seed=") for field in fields):
        raise UserError("--seeds and --config.seed both choose the seed of a run: give one")
    planned = sweep.plan(
        recipes,
        _seeds(args),
        fields,
        args.workdir,
        arguments.load_recipe,
    )
    main = os.path.join(os.path.dirname(recipe_files.RECIPES), "main.py")
    program = [main] if os.path.exists(main) else ["-m", "cifar_jax"]
    more = [f"--compiled={args.compiled}"] if args.compiled else []
    failed, signal = sweep.run(planned, [sys.executable, *program, *more])
    if signal:
        print(f"the sweep stopped; to resume it:\n  python {shlex.join(sys.argv)}", flush=True)
        return 128 + signal
    done = [each.workdir for each in planned if files_of.has_run(each.workdir)]
    print(f"\n{len(planned) - len(failed)} of {len(planned)} runs are finished", flush=True)
    status = _compare(done, args.target_accuracy) if done else 0
    for workdir, why in failed.items():
        print(f"error: {workdir}: {why}", file=sys.stderr)
    return 1 if failed else status


def _seeds(args) -> list[int]:
    try:
        return list(dict.fromkeys(int(seed) for seed in args.seeds))
    except ValueError:
        seeds = ",".join(args.seeds)
        raise UserError(
            f"--seeds={seeds}: it takes whole numbers, for example --seeds=0,1,2"
        ) from None
