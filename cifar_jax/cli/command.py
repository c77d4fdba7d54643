"""The command line: its flags, what --help prints, and how a mode is started."""

import gc
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from cifar_jax.cli import arguments
from cifar_jax.cli.modes import MODES
from cifar_jax.data import pictures
from cifar_jax.errors import UserError
from cifar_jax.inference import export
from cifar_jax.runtime import compile_cache, parallel, settings
from cifar_jax.system import console, interruption

# The name of the program where the package is installed.
COMMAND = "cifar-jax"
# Not the docstring, which `python -OO` removes.
USAGE = """\
Trains small image classifiers and segmentation networks in JAX, evaluates them, and predicts with them.

Usage:
  python main.py --config=configs/quickstart.py                    train, in a new folder under runs/
  python main.py --config=configs/resnet20_v2.py --config.seed=1   change any field of a recipe
  python main.py --workdir=runs/NAME                               resume an interrupted run
  python main.py --mode=eval --workdir=runs/NAME                   test accuracy, overall and per class
  python main.py --mode=predict --image=frog.png --image=folder/   classify with the bundled network
  python main.py --mode=export --workdir=runs/NAME --format=onnx   write the network for other programs
  python main.py --mode=compare --workdir='runs/*'                 show many runs on one page
  python main.py --mode=sweep --recipes=configs/cifar100 --seeds=0,1 --workdir=runs/cifar100

Flags:
  --mode      train (default), eval, predict, export, compare or sweep
  --config    a recipe; --config.FIELD=VALUE changes a field (configs/default.py explains each);
              eval, predict, export: the weights' recipe, needed if they were trained elsewhere
  --workdir   the folder of a run: created if it is new, resumed if it holds a run
  --weights   best (default) or latest of the workdir, a file, or the name of a bundled network;
              without --weights, --workdir and --config.init_from: the bundled resnet20_v2
  --image     a picture or a folder of pictures; may be repeated
  --fit       predict: how a picture is made square: crop, squash, pad, crop+squash (default) or all
  --format    export: onnx (default), stablehlo, jax or safetensors
  --json      eval and predict: print JSON
  --output    export: the file to write; predict: a .png to draw pictures and answers into;
              with a segmentation network, the folder for masks and overlays (predictions)
  --recipes, --seeds  sweep: recipes or folders of recipes (may be repeated), and seeds for each
  --target_accuracy   compare and sweep: report times to this accuracy or mean IoU, for example 0.9
  --compiled  the folder that caches compiled programs (~/.cache/cifar_jax/compiled), or off
  --distributed, --coordinator_address=HOST:PORT, --num_processes, --process_id
              one run by several processes; under Slurm, --distributed alone
"""

flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
try:
    config_flags.DEFINE_config_file("config", None, "A recipe.")
except (flags.Error, OSError) as error:  # defining the flag reads --flagfile
    sys.exit(f"error: --flagfile: {error}")
flags.DEFINE_multi_string("workdir", [], "The folder of a run; compare takes several.")
flags.DEFINE_string("weights", "", "best, latest or a file.")
flags.DEFINE_multi_string("image", [], "A picture or a folder of pictures.")
flags.DEFINE_enum("fit", None, list(pictures.FITS), "How a picture is made square.")
flags.DEFINE_enum("format", None, list(export.SUFFIXES), "What to export.")
flags.DEFINE_string("output", "", "The file to write.")
flags.DEFINE_bool("json", False, "Machine-readable output of eval and predict.")
flags.DEFINE_multi_string("recipes", [], "Recipes or folders of recipes of a sweep.")
flags.DEFINE_list("seeds", [], "The seeds of a sweep.")
flags.DEFINE_float("target_accuracy", None, "Report times to this accuracy.")
flags.DEFINE_string("compiled", "", "Folder of the cache of compiled programs, or off.")
flags.DEFINE_bool("distributed", False, "Join the other processes of this run.")
flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
flags.DEFINE_integer("num_processes", None, "The number of processes.")
flags.DEFINE_integer("process_id", None, "The index of this process, from 0.")


def main(argv: list[str]) -> int:
    del argv
    args = flags.FLAGS
    # Tracing makes millions of long-lived objects: at its default rate, garbage collection would take a
    # tenth of the start.
    gc.set_threshold(100_000)
    settings.fix()
    compile_cache.enable(args.compiled)
    try:
        alone = args.num_processes is None and args.process_id is None
        if args.distributed or args.coordinator_address or not alone:
            parallel.initialize(args.coordinator_address, args.num_processes, args.process_id)
            interruption.listen()  # again: JAX's runtime has taken SIGTERM
        status = MODES[args.mode](args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        parallel.end_with_the_others()
        return 1
    except (MemoryError, ValueError, RuntimeError, AssertionError) as error:
        parallel.leave_if_another_is_lost(error)
        missing = parallel.why_no_devices(error)
        if missing:
            print(f"error: {missing}", file=sys.stderr)
            return 1
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        hint = "try a smaller config.batch_size, config.eval_batch_size or model, or config.model.remat"
        print(f"error: out of memory: {hint}", file=sys.stderr)
        return 1
    # Training works without its output; the other modes do nothing else than print.
    return 1 if console.lost and args.mode != "train" else status


def run() -> None:
    """Runs the command line in sys.argv and exits with its status."""
    logging.set_verbosity(logging.FATAL)
    installed = os.path.basename(sys.argv[0]) == COMMAND
    usage = USAGE.replace("python main.py", COMMAND) if installed else USAGE
    app.run(main, flags_parser=lambda argv: arguments.parse(argv, usage))
