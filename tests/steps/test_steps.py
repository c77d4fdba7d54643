"""The training step equals NumPy in float64; invariants of every step and evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_jax import config as config_lib
from cifar_jax import steps
from cifar_jax.inference import evaluate
from cifar_jax.models import create_model
from cifar_jax.runtime import parallel
from cifar_jax.steps import augment, optimizer, schedules, state, training
from configs import default

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
SIZE, CLASSES = 4, 5


def random_data(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, count).astype(np.int32)


def make_task(config, count, num_classes=CLASSES, chain=None):
    per_epoch = steps.steps_per_epoch(count, config.batch_size)
    schedule = schedules.learning_rate_schedule(config.lr_schedule, config.num_epochs, per_epoch)
    model = create_model(
        config.model.name,
        num_classes,
        axis_name=parallel.AXIS,
        **config_lib.model_options(config),
    )
    chain = chain or optimizer.create_optimizer(config.optimizer, schedule)
    return steps.Task(model, chain, config, num_classes, MEAN, STD)


def make_state(task):
    variables = state.init_variables(task.model, task.config.seed, SIZE)
    return state.create_state(variables, task.optimizer, ema=bool(task.config.ema_decay))


def run(train_steps, start, data, *counts, seed=0):
    """The state, on the host, after dispatches of these numbers of steps."""
    now, placed = parallel.replicate(jax.device_get(start)), parallel.place(data)
    for count in counts:
        now, _ = train_steps(now, placed, np.uint32(seed), np.int32(count))
    return parallel.unreplicate(now)


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def inputs(images):
    return ((images / 255 - MEAN) / STD).reshape(len(images), -1)


def test_two_epochs_of_softmax_regression_equal_numpy(config):
    config.label_smoothing = 0.1
    config.ema_decay = 0.3
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_bias_and_norm = False
    config.lr_schedule.name = "step"
    config.lr_schedule.learning_rate = 0.05
    config.lr_schedule.boundaries = (1,)
    # Two whole batches of 8; the last four examples of each epoch are dropped.
    images, labels = random_data(20)
    task = make_task(config, 20)
    start = make_state(task)
    end = run(steps.train_steps(task), start, (images, labels), 2, 2)

    params = {k: np.float64(v) for k, v in start.params["head"].items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    average = dict(params)
    losses, correct = [], []
    for step in range(4):
        order = np.asarray(steps.epoch_order(config.seed, step // 2, 20))
        index = order[step % 2 * 8 :][:8]
        x, label = inputs(images[index]), labels[index]
        log_p = log_softmax(x @ params["kernel"] + params["bias"])
        target = 0.9 * np.eye(CLASSES)[label] + 0.1 / CLASSES
        losses.append(-(target * log_p).sum(axis=1).mean())
        correct.append((log_p.argmax(axis=1) == label).sum())
        slope = (np.exp(log_p) - target) / 8
        gradient = {"kernel": x.T @ slope + 0.01 * params["kernel"], "bias": slope.sum(axis=0)}
        decay = min(0.3, (1 + step) / (10 + step))
        for name, g in gradient.items():
            velocity[name] = 0.9 * velocity[name] + g
            # Nesterov; the rate drops in the second epoch.
            rate = 0.05 if step < 2 else 0.005
            params[name] = params[name] - rate * (g + 0.9 * velocity[name])
            average[name] = decay * average[name] + (1 - decay) * params[name]

    assert int(end.step) == 4
    for name in params:
        np.testing.assert_allclose(end.params["head"][name], params[name], rtol=1e-5, atol=1e-6)
        ema = end.ema["params"]["head"][name]
        np.testing.assert_allclose(ema, average[name], rtol=1e-5, atol=1e-6)
    # The sums cover the second epoch only.
    assert float(end.metrics.loss) == pytest.approx(sum(losses[2:]), rel=1e-5)
    assert int(end.metrics.correct) == sum(correct[2:])
    assert int(end.metrics.failed_step) == -1


def test_the_moving_average_ramps_up_to_its_decay(config):
    """min(decay, (1 + step) / (10 + step)): 0.1 at step 0, then 2/11, 3/12, ..."""
    for step, decay, expected in ((0, 0.9, 0.1), (1, 0.9, 2 / 11), (8, 0.5, 0.5), (80, 0.9, 0.9)):
        old = state.TrainState(
            step=np.int32(step), params={}, batch_stats={}, opt_state=(), metrics=None,
            ema={"params": {"w": np.float32(1)}, "batch_stats": {"mean": np.float32(2)}},
        )  # fmt: skip
        new = training._moving_average(decay, old, {"w": np.float32(0)}, {"mean": np.float32(0)})
        assert float(new["params"]["w"]) == pytest.approx(expected)
        assert float(new["batch_stats"]["mean"]) == pytest.approx(2 * expected)


def everything_random(config):
    config.augment.crop_padding = 1
    config.augment.flip = True
    config.augment.cutout = 2
    config.augment.mixup = 1.0
    config.ema_decay = 0.99
    config.label_smoothing = 0.1
    config.model.name = "mlp"
    config.model.hidden_sizes = (6,)
    config.model.batch_norm = True
    config.model.dropout = 0.5
    return config


@pytest.fixture(scope="module")
def random_run():
    """(task with seed 7, first state, images and labels, compiled steps)"""
    config = everything_random(default.get_config())
    config.seed, config.batch_size = 7, 8
    config.lr_schedule.boundaries = ()
    task = make_task(config, 40)
    return task, make_state(task), random_data(40), steps.train_steps(task)


def test_where_a_run_is_cut_into_dispatches_changes_no_bit(random_run):
    _, start, data, train_steps = random_run
    once = run(train_steps, start, data, 5, 5)
    often = run(train_steps, start, data, 2, 3, 1, 1, 3)
    assert int(once.step) == 10
    assert jax.tree.structure(once) == jax.tree.structure(often)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(often), strict=True):
        assert a.tobytes() == b.tobytes()
    # Training moved the running statistics, and with them their average.
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(jax.device_get(start)), strict=True):
        assert a.dtype == b.dtype
        assert a.dtype == np.int32 or not np.array_equal(a, b)


def test_a_dispatch_that_goes_over_the_ends_of_epochs_changes_no_bit(config):
    everything_random(config)
    config.augment.alternating_flip = True
    config.augment.padding_mode = "reflect"
    config.augment.brightness, config.augment.contrast = 0.1, 0.2
    task = make_task(config, 43)  # five batches per epoch, and three images left over
    start, data = make_state(task), random_data(43)
    train_steps = steps.train_steps(task)
    ends = [run(train_steps, start, data, *counts) for counts in ((5, 5, 3), (0, 13), (4, 0, 7, 2))]
    assert [int(end.step) for end in ends] == [13] * 3
    for end in ends[1:]:
        for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(end), strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_flip_alternates_over_the_epochs_of_a_run(config):
    config.augment.flip = config.augment.alternating_flip = True
    images, _ = random_data(16)
    data, places = (images, np.arange(16, dtype=np.int32)), np.arange(8)
    task = make_task(config, 16, 16)
    plain = np.asarray(augment.normalize(images, MEAN, STD))
    mirrored = {}
    for step in range(6):
        order = steps.epoch_order(config.seed, step // 2, 16)
        pixels, labels, _ = jax.device_get(steps.training_batch(task, data, order, step, places))
        for pixel, label in zip(pixels, labels, strict=True):
            is_mirrored = not np.array_equal(pixel, plain[label])
            np.testing.assert_array_equal(pixel[:, ::-1] if is_mirrored else pixel, plain[label])
            mirrored.setdefault(int(label), []).append(is_mirrored)
    assert len(mirrored) == 16
    assert {tuple(seen) for seen in mirrored.values()} == {
        (True, False, True),
        (False, True, False),
    }


def test_the_seed_is_an_argument_of_the_compiled_steps(random_run):
    task, start, data, train_steps = random_run

    def with_seed_of_config(state, data, seed, count):
        return steps.take_steps(task, state, data, count), ()

    expected = run(parallel.map_train(with_seed_of_config), start, data, 3)
    other, found = (run(train_steps, start, data, 3, seed=seed) for seed in (8, task.config.seed))
    assert not np.allclose(*(end.params["dense1"]["kernel"] for end in (other, found)))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_first_step_of_a_loss_that_is_not_finite_is_kept(config):
    # The update of step 2 makes the weights infinite; step 3 is the first to notice.
    chain = optax.sgd(lambda step: jnp.where(step == 2, jnp.inf, 0.01))
    task = make_task(config, 48, chain=chain)
    start, data = make_state(task), random_data(48)
    train_steps = steps.train_steps(task)
    failed = [int(run(train_steps, start, data, n).metrics.failed_step) for n in (3, 4, 6)]
    assert failed == [-1, 3, 3]


def test_each_epoch_visits_every_example_in_an_order_of_its_own():
    orders = {
        (seed, epoch): tuple(np.asarray(steps.epoch_order(seed, epoch, 30)).tolist())
        for seed in (0, 2**31, 2**32 - 1)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(30)) for order in orders.values())
    assert len(set(orders.values())) == 6


def test_the_last_partial_batch_is_dropped():
    assert [steps.steps_per_epoch(n, 8) for n in (7, 8, 23, 24)] == [0, 1, 2, 3]


def batches_of_classes(config, smoothing=0.0):
    """A function of a seed: a training batch of 8 examples, each of its own class, without and with mixup."""
    config.augment.crop_padding = 1
    config.augment.flip = True
    config.augment.cutout = 2
    mixed = config.copy_and_resolve_references()
    mixed.augment.mixup = 1.0
    mixed.label_smoothing = smoothing
    tasks = [make_task(config, 8, 8), make_task(mixed, 8, 8)]
    images, _ = random_data(8)
    data, places = (jnp.asarray(images), jnp.arange(8)), jnp.arange(8)

    @jax.jit
    def batches(seed):
        order = steps.epoch_order(seed, 0, 8)
        seeded = [dataclasses.replace(task, seed=seed) for task in tasks]
        return [steps.training_batch(task, data, order, 5, places) for task in seeded]

    return lambda seed: jax.device_get(batches(np.uint32(seed)))


def test_mixup_takes_the_same_share_of_pixels_and_targets_of_an_augmented_partner(config):
    shares, batches = set(), batches_of_classes(config)
    for seed in range(4):
        (pixels, labels, targets), (mixed, mixed_labels, mixed_targets) = batches(seed)
        np.testing.assert_array_equal(targets, np.eye(8)[labels])
        np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, rtol=1e-6)
        place_of = {int(label): place for place, label in enumerate(labels)}
        partners = []
        for i in range(8):
            (other,) = set(np.flatnonzero(mixed_targets[i])) - {labels[i]} or {labels[i]}
            partner = place_of[int(other)]
            partners.append(partner)
            # The batch has one share; an example may be its own partner.
            share = mixed_targets[i, labels[i]] if partner != i else 1.0
            expected = share * pixels[i] + (1 - share) * pixels[partner]
            np.testing.assert_allclose(mixed[i], expected, rtol=0, atol=1e-5)
            if partner != i:
                shares.add((seed, round(float(share), 5)))
                assert mixed_labels[i] == (labels[i] if share >= 0.5 else other)
        assert sorted(partners) == list(range(8))
    assert len(shares) == 4
    assert min(share for _, share in shares) < 0.5 < max(share for _, share in shares)


def test_smoothed_targets_of_mixed_examples_sum_to_one_and_leave_none_at_zero(config):
    _, (_, _, targets) = batches_of_classes(config, smoothing=0.2)(0)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert targets.min() == pytest.approx(0.2 / 8)


@pytest.mark.parametrize("batch", [8, 23, 1000])
def test_evaluation_counts_every_image_once(config, batch):
    config.eval_batch_size = batch
    images, labels = random_data(23)
    labels[labels == 3] = 2  # a class without images
    task = make_task(config, 23)
    variables = jax.device_get(state.init_variables(task.model, 0, SIZE))
    names = tuple("abcde")

    result = evaluate.evaluate(
        steps.eval_sums(task),
        parallel.replicate(variables),
        parallel.place((images, labels)),
        names,
    )

    head = variables["params"]["head"]
    loss, confusion = 0.0, np.zeros((CLASSES, CLASSES), int)
    for image, label in zip(images, labels, strict=True):
        log_p = log_softmax(inputs(image[None]) @ np.float64(head["kernel"]) + head["bias"])[0]
        loss -= log_p[label] / 23
        confusion[label, log_p.argmax()] += 1
    np.testing.assert_array_equal(result.confusion, confusion)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.count == 23
    assert result.accuracy == pytest.approx(np.trace(confusion) / 23)
    assert result.accuracy_per_class["d"] is None
    right = confusion[2, 2] / (labels == 2).sum()
    assert result.accuracy_per_class["c"] == pytest.approx(right)
    assert result.to_dict()["confusion_matrix"] == confusion.tolist()
    assert "  d  -" in result.to_text().splitlines()
