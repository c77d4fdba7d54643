"""The worker of our side of the speedrun: trains a run for each seed that it reads from standard input."""

import json
import sys
import time

import jax
import numpy as np

from benchmarks import common, ours
from cifar_jax import config as config_lib
from cifar_jax import steps, training
from cifar_jax.data import datasets
from cifar_jax.inference import Result, evaluate
from cifar_jax.runtime import parallel, programs
from cifar_jax.steps import augment, inference_variables
from configs import default


class Session:
    """The recipe of a job, compiled once for all seeds, on images that are on the device."""

    def __init__(self, job: common.Job):
        config = config_lib.from_json(json.dumps(job.config), default.get_config())
        config_lib.validate(config, default.FIELDS)
        parallel.check_batch_size(config.batch_size)
        train, test = (
            datasets.Split(*map(datasets.aligned, common.load_images(folder)))
            for folder in (job.data, job.test_data)
        )
        names = tuple(str(i) for i in range(common.CLASSES))
        dataset = datasets.Dataset("benchmark", train, test, None, names, job.mean, job.std)
        run = training.create_run(config, "", dataset)
        task = run.task
        self._names = names
        self._count = np.int32(config.num_epochs * run.steps_per_epoch)
        self._images = parallel.place(training.whitening_images(run))
        self._train_data = parallel.place((train.images, train.labels))
        self._test_data = parallel.place((test.images, test.labels))

        # The seed is an argument, so that one program serves all runs.
        def first_state(_, seed_and_images):
            return training.fresh_state(run, *seed_and_images)

        self._first_state = parallel.map_eval(first_state)
        views = config.test_time_augmentation
        if not augment.VIEWS[views]:
            raise ValueError("test_time_augmentation is none")
        state = self._first_state(parallel.replicate(np.float32(0)), (np.uint32(0), self._images))
        variables = inference_variables(state)
        arguments = (state, self._train_data, np.uint32(0), np.int32(0))
        wanted = {
            "training": (steps.train_steps(task), arguments),
            "evaluation": (steps.eval_sums(task), (variables, self._test_data)),
            "views": (steps.eval_sums(task, views), (variables, self._test_data)),
        }
        compiled = programs.compile_together(wanted, run.autotune_level)
        self._train_steps, self._plain, self._augmented = compiled.values()
        self.run(0, np.int32(0))  # loads them

    def run(self, seed: int, count=None) -> dict:
        """Trains and evaluates a run. Returns accuracies and times in seconds."""
        seed = np.uint32(seed)
        ends = [time.perf_counter()]

        def ended(value):
            jax.block_until_ready(value)
            ends.append(time.perf_counter())
            return value

        state = ended(self._first_state(parallel.replicate(np.float32(0)), (seed, self._images)))
        count = self._count if count is None else count
        state, metrics = ended(self._train_steps(state, self._train_data, seed, count))
        variables = inference_variables(state)
        augmented = ended(self._evaluate(self._augmented, variables))
        first, train, evaluation = np.diff(ends)
        plain = self._evaluate(self._plain, variables)
        failed = int(parallel.unreplicate(metrics).failed_step)
        if failed >= 0:
            raise FloatingPointError(f"the loss is not finite at step {failed}")
        return {
            "accuracy": plain.accuracy,
            "augmented_accuracy": augmented.accuracy,
            "train": train,
            "with_whitening": first + train,
            "with_evaluation": first + train + evaluation,
        }

    def _evaluate(self, eval_sums, variables) -> Result:
        return evaluate.evaluate(eval_sums, variables, self._test_data, self._names)


if __name__ == "__main__":
    session = Session(common.Job.from_json(sys.argv[1]))
    common.serve(ours.facts(), session.run)
