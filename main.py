"""Trains, evaluates and predicts with small image classifiers in JAX.

Usage:
  python main.py --config=configs/quickstart.py                    train, in a new folder under runs/
  python main.py --config=configs/resnet20_v2.py --config.seed=1   change any field of a recipe
  python main.py --workdir=runs/NAME                               go on with an interrupted run
  python main.py --mode=eval --workdir=runs/NAME                   test accuracy, per class
  python main.py --mode=predict --image=frog.png --image=folder/   with the network that comes along
  python main.py --mode=export --workdir=runs/NAME --format=onnx   the network for other programs
  python main.py --mode=compare --workdir='runs/*'                 many runs on one page
  python main.py --mode=sweep --recipes=configs/cifar100 --seeds=0,1 --workdir=runs/cifar100

Flags:
  --mode      train (default), eval, predict, export, compare or sweep
  --config    a recipe; --config.FIELD=VALUE changes a field (configs/default.py explains each)
  --workdir   the folder of a run: made if it is not there, gone on with if it holds a run
  --weights   best (default) or latest of the workdir, a .safetensors file, or a network of
              cifar_jax/inference/pretrained; without any of them, resnet20_v2
  --image     a picture or a folder of pictures; may be repeated
  --format    export: onnx (default), stablehlo, jax or safetensors
  --json      eval and predict print JSON
  --output    the file that export writes; the .png that predict draws pictures and answers into
  --recipes, --seeds  sweep: recipes or folders of them (may be repeated), and seeds for each
  --target_accuracy   compare and sweep: give times to this accuracy, as 0.9
  --compiled  where compiled programs are kept (~/.cache/cifar_jax/compiled), or off
  --distributed, --coordinator_address=HOST:PORT, --num_processes, --process_id
              one run by several processes; under Slurm, --distributed alone
"""

import gc
import sys

from cifar_jax.system import console, interruption, malloc

if __name__ == "__main__":  # before the imports, so that it takes milliseconds
    interruption.hold()
    console.restart_in_utf8()
    malloc.restart_with_settings()
    console.never_fails()
    interruption.listen()

from absl import app, flags, logging
from ml_collections import config_flags

from cifar_jax.cli import arguments, many_runs, one_run
from cifar_jax.errors import UserError
from cifar_jax.inference import export
from cifar_jax.runtime import compile_cache, parallel

MODES = ["train", "eval", "predict", "export", "compare", "sweep"]
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
try:
    config_flags.DEFINE_config_file("config", None, "A recipe.")
except (flags.Error, OSError) as error:  # it reads --flagfile
    sys.exit(f"error: --flagfile: {error}")
flags.DEFINE_multi_string("workdir", [], "The folder of a run; compare takes several.")
flags.DEFINE_string("weights", "", "best, latest or a file.")
flags.DEFINE_multi_string("image", [], "Pictures and folders of pictures.")
flags.DEFINE_enum("format", None, list(export.SUFFIXES), "What to export.")
flags.DEFINE_string("output", "", "The file that is written.")
flags.DEFINE_bool("json", False, "Machine-readable output of eval and predict.")
flags.DEFINE_multi_string("recipes", [], "Recipes and folders of recipes of a sweep.")
flags.DEFINE_list("seeds", [], "The seeds of a sweep.")
flags.DEFINE_float("target_accuracy", None, "Times to this accuracy are compared.")
flags.DEFINE_string("compiled", "", "Where compiled programs are kept; off: nowhere.")
flags.DEFINE_bool("distributed", False, "Join the other processes of this run.")
flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
flags.DEFINE_integer("num_processes", None, "How many processes there are.")
flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def main(argv: list[str]) -> int:
    del argv
    args = flags.FLAGS
    modes = {
        "train": one_run.run_train,
        "eval": one_run.run_evaluate,
        "predict": one_run.run_predict,
        "export": one_run.run_export,
        "compare": many_runs.run_compare,
        "sweep": many_runs.run_sweep,
    }
    # Tracing makes millions of objects, nearly all of them to stay: looking for garbage among them at
    # Python's usual rate takes a tenth of a start.
    gc.set_threshold(100_000)
    compile_cache.enable(args.compiled)
    try:
        alone = args.num_processes is None and args.process_id is None
        if args.distributed or args.coordinator_address or not alone:
            parallel.initialize(args.coordinator_address, args.num_processes, args.process_id)
            interruption.listen()  # JAX's runtime takes SIGTERM for itself
        status = modes[args.mode](args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        parallel.end_with_the_others()
        return 1
    except (MemoryError, parallel.RuntimeFailed) as error:
        parallel.leave_if_another_is_lost(error)
        if isinstance(error, parallel.RuntimeFailed) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        hint = "try a smaller config.batch_size, config.eval_batch_size or model, or config.model.remat"
        print(f"error: the memory is not enough: {hint}", file=sys.stderr)
        return 1
    # What training prints is for people to follow it; what the others print is all that they do.
    return 1 if console.lost and args.mode != "train" else status


if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)
    app.run(main, flags_parser=lambda argv: arguments.parse(argv, __doc__))
